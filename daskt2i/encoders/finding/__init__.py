"""Where the files of a model are on this machine.

In here: a folder, the Hugging Face cache, a download (`locate`), copies that came from another machine
(`model_copies`), one process that reads while others wait (`one_at_a_time`), silence while a library works (`quiet`).
Not in here: what is in the files (`encoders.weights`), sending files to other machines (`hosts`).
Weights are read only from safetensors files, so a file from elsewhere can run no code.
"""
