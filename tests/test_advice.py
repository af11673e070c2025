"""Every message that tells a user to do something has a test that does it.

Covers: which messages there are (found in the source by `builders.advice`), which test each of them has, and why some
have none.
Does not cover: the tests themselves. They are in `tests/advice/`, one file for some rooms, and take an error with
`told("room/module.py:Class.function SomeError")`, which checks that it was raised there.

A message is known by the module, the function and the class of the error; its words may change. A function may have
several messages of one class: it has as many tests at least.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest
from builders import TESTS
from builders.advice import ADVICE, messages, modules, places, places_with_tests

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "train/trackers/follow.py:require_packages ConfigError": (
        "train/test_trackers.py::test_a_tracker_that_is_not_installed_is_refused",
    ),
    "train/figures/step_figures.py:StepFigures._is_spike LossSpike": (
        "train/test_spikes.py::test_stop_ends_the_training_before_a_checkpoint_and_skip_goes_on",
    ),
    "train/resume.py:check_changes ConfigError": (
        "train/test_schedule.py::test_other_settings_are_refused_with_the_list_of_those_that_may_change",
        "train/test_schedule.py::test_without_a_checkpoint_nothing_goes_on_and_set_begins",
    ),
    "model/denoisers/fitting.py:built ConfigError": (
        "model/denoisers/test_transformers.py::test_arguments_that_do_not_fit_together_are_refused_before_the_first_step",
    ),
    "model/denoisers/lumina2.py:Lumina2.config ConfigError": (
        "model/denoisers/test_transformers.py::test_a_head_of_lumina2_is_as_long_as_its_axes",
    ),
    "model/denoisers/sana.py:Sana.config ConfigError": (
        "model/denoisers/test_transformers.py::test_sana_draws_without_the_guidance_of_sprint",
    ),
    "model/denoisers/sd3.py:SD3.config ConfigError": (
        "model/denoisers/test_transformers.py::test_sd3_needs_pooled_states_and_padding_that_is_text",
        "train/test_transformers.py::test_a_store_that_lacks_what_sd3_needs_is_refused_before_a_rank_starts",
    ),
    "cli/studio.py:require_packages ConfigError": (
        "studio/test_serve.py::test_a_missing_package_is_named_with_how_to_get_it",
    ),
    "sample/live_painter.py:LivePainter.draw ConfigError": (
        "studio/test_answers.py::test_an_error_after_the_answer_began_is_its_last_line",
    ),
    "studio/drawing.py:Asked.of ConfigError": (
        "studio/test_answers.py::test_what_cannot_be_drawn_is_refused_in_one_sentence",
        "studio/test_answers.py::test_a_preview_is_one_small_file_and_a_suggestion_continues_the_text",
        "studio/test_answers.py::test_a_picture_comes_step_by_step_and_is_the_one_of_sample",
        "studio/test_answers.py::test_the_form_that_clients_of_openai_know_is_answered",
    ),
    "studio/answers.py:number ConfigError": ("studio/test_answers.py::test_a_curve_is_the_one_of_the_run",),
    "studio/drawing.py:Drawing ConfigError": (
        "studio/test_answers.py::test_the_form_that_clients_of_openai_know_is_answered",
    ),
    "studio/drawing.py:_whole ConfigError": (
        "studio/test_answers.py::test_what_cannot_be_drawn_is_refused_in_one_sentence",
        "studio/test_answers.py::test_a_picture_comes_step_by_step_and_is_the_one_of_sample",
    ),
    "studio/library.py:require_places StoreMissing": (
        "studio/test_serve.py::test_a_folder_that_is_not_there_is_named",
    ),
    "studio/serve.py:_bound ConfigError": ("studio/test_serve.py::test_a_port_that_is_taken_is_named",),
    "studio/training.py:Training ConfigError": (
        "studio/test_answers.py::test_sheets_and_requests_go_through_the_run_folder",
    ),
    "studio/library.py:Library.run StoreMissing": (
        "studio/test_answers.py::test_a_run_that_appears_is_shown_without_a_new_start",
    ),
    "studio/serve.py:listen ConfigError": (
        "studio/test_serve.py::test_without_a_token_it_answers_this_machine_alone",
        "studio/test_serve.py::test_a_token_that_a_browser_may_spoil_is_refused",
    ),
    "studio/training.py:Training.file StoreMissing": (
        "studio/test_answers.py::test_sheets_and_requests_go_through_the_run_folder",
    ),
    "insights/rejected_rows.py:rejected_rows StoreMissing": (
        "cli/test_look.py::test_rejected_rows_are_listed_by_file_name",
    ),
    "export/hub/repository.py:Repository.__init__ ConfigError": (
        "export/test_push.py::test_without_a_token_or_a_network_one_sentence_says_so",
        "export/test_push.py::test_a_dry_run_lists_files_and_bytes_and_needs_no_token",
    ),
    "export/hub/repository.py:Repository._explained AccessRefused": (
        "export/test_push.py::test_a_token_that_may_not_write_is_refused_before_anything_is_sent",
    ),
    "export/hub/repository.py:Repository._explained TransportFailed": (
        "export/test_push.py::test_a_stopped_push_goes_on_where_it_was",
    ),
    "export/hub/repository.py:Repository._explained StoreError": (
        "export/test_push.py::test_what_the_hub_does_not_take_is_told_in_its_words",
    ),
    "export/hub/repository.py:require_name ConfigError": ("export/test_push.py::test_a_name_that_is_none_is_refused",),
    "export/hub/driver.py:_card StoreError": ("export/test_push.py::test_a_store_that_is_not_finished_is_not_pushed",),
    "export/columns.py:refuse_column ConfigError": (
        "export/test_push.py::test_a_column_goes_with_its_store_and_not_alone",
        "export/test_columns.py::test_a_column_alone_is_refused_and_its_store_taken",
    ),
    "export/hub/driver.py:_refuse_others ConfigError": (
        "export/test_push.py::test_a_repository_of_others_is_refused_and_a_new_one_taken",
    ),
    "sources/index/shelf.py:Shelf._whole SourceError": (
        "sources/test_index.py::test_a_table_with_other_bytes_is_one_sentence_and_made_anew_without_it",
    ),
    "loader/memory/mapped_rows.py:_explaining StoreFull": (
        "loader/test_mapped_rows.py::test_a_full_disk_leaves_nothing_and_another_folder_works",
    ),
    "loader/memory/mapped_rows.py:_explaining StoreError": (
        "loader/test_mapped_rows.py::test_a_folder_that_cannot_be_used_is_named_and_another_works",
        "loader/test_mapped_rows.py::test_damaged_files_are_written_again_when_their_folder_is_removed",
    ),
    "deploy/scheduler_side.py:_unreadable SchedulerError": (
        "dashboard/test_plugin.py::test_a_scheduler_that_cannot_import_daskt2i_is_told_in_one_line",
    ),
    "cli/cluster.py:slurm ConfigError": (
        "advice/test_clusters.py::test_a_command_and_options_that_the_messages_name_are_taken",
    ),
    "cli/cluster.py:_require_words ConfigError": (
        "advice/test_clusters.py::test_a_command_and_options_that_the_messages_name_are_taken",
    ),
    "cli/cluster.py:_notes Note": (
        "cli/test_cluster.py::test_a_secret_in_the_script_is_told_of",
        "cli/test_cluster.py::test_the_script_alone_is_on_standard_output_and_notes_are_not",
    ),
    "hosts/check.py:check_workers WorkerWithoutFiles": (
        "hosts/test_check.py::test_the_run_stops_if_too_few_hosts_see_the_run_folder_and_each_that_does_not_is_named",
    ),
    "train/upkeep/rank_needs.py:named WorkerWithoutFiles": (
        "hosts/test_check.py::test_a_rank_without_the_images_is_named",
    ),
    "encoders/finding/model_copies.py:add ModelError": (
        "hosts/test_model_files.py::test_an_index_that_names_other_files_is_refused",
    ),
    "encoders/finding/model_copies.py:_require_same ModelError": (
        "hosts/test_model_files.py::test_a_copy_with_other_bytes_is_not_kept",
    ),
    "train/upkeep/rank_needs.py:require_seen ModelMissing": (
        "hosts/test_model_files.py::test_a_rank_zero_with_a_damaged_copy_trains_nothing_until_it_has_the_model_of_the_store",
    ),
    "encoders/finding/locate.py:_found ModelMissing": (
        "hosts/test_model_files.py::test_a_hub_model_that_is_not_here_is_not_downloaded_by_a_check",
    ),
    "train/upkeep/launching.py:launch_training ModelMissing": (
        "hosts/test_model_files.py::test_a_training_whose_models_are_above_the_limit_begins_when_they_may_be_sent",
    ),
    "sample/driver.py:_drawn Note": (
        "sample/test_driver.py::test_a_model_that_pooled_padding_draws_with_a_note_and_a_newer_one_without",
    ),
    "encode/worker.py:_ChunkRun._require_images ImagesMissing": (
        "encode/test_driver.py::test_without_any_image_the_chunks_fail_and_no_row_is_rejected",
        "encode/test_driver.py::test_really_missing_images_can_be_rejected_and_retried_later",
    ),
    "encode/chunks/stamps.py:settled ImagesExchanged": (
        "encode/test_swapped_folder.py::test_a_chunk_whose_images_change_at_each_try_fails_and_names_them",
    ),
    "encode/chunks/culprit.py:Trial.treat Note": (
        "encode/test_chunks.py::test_a_death_for_want_of_memory_makes_the_batch_smaller_and_rejects_no_row",
    ),
    "evaluation/figures/driver.py:measure Interrupted": (
        "evaluation/figures/test_driver.py::test_a_stopped_evaluate_goes_on_and_gives_the_same_figures",
    ),
    "evaluation/figures/extractors.py:look ModelError": (
        "evaluation/figures/test_driver.py::test_a_figure_without_its_model_is_refused",
        "evaluation/figures/test_driver.py::test_a_figure_without_its_model_is_refused",
    ),
    "evaluation/figures/extractors.py:Extractor.__init__ ModelError": (
        "evaluation/figures/test_driver.py::test_an_inception_with_other_tensors_is_refused",
    ),
    "evaluation/figures/prepare.py:require_models WorkerWithoutFiles": (
        "evaluation/figures/test_driver.py::test_a_host_that_lacks_the_weights_is_named_before_a_picture_is_drawn",
    ),
    "evaluation/figures/reference.py:_of_run ConfigError": (
        "evaluation/figures/test_driver.py::test_a_run_folder_is_compared_with_by_the_images_that_it_was_encoded_from",
    ),
    "evaluation/figures/reference.py:_of_run SourceError": (
        "evaluation/figures/test_driver.py::test_a_run_folder_is_compared_with_by_the_images_that_it_was_encoded_from",
    ),
    "evaluation/figures/reference.py:real_pictures SourceError": (
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
    ),
    "evaluation/figures/reference.py:require_fit ConfigError": (
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
    ),
    "evaluation/figures/request.py:figure_request ConfigError": (
        "evaluation/figures/test_driver.py::test_a_figure_without_its_model_is_refused",
    ),
    "evaluation/figures/request.py:require_enough ConfigError": (
        "evaluation/figures/test_driver.py::test_few_pictures_are_refused_before_work_begins",
        "evaluation/figures/test_driver.py::test_few_pictures_are_refused_before_work_begins",
    ),
    "evaluation/figures/request.py:_require_library ConfigError": (
        "evaluation/figures/test_driver.py::test_without_torchmetrics_one_sentence_says_so",
    ),
    "evaluation/figures/statistics.py:from_bytes ConfigError": (
        "evaluation/figures/test_driver.py::test_statistics_in_a_file_are_used_again_and_checked",
    ),
    "evaluation/judging.py:expectation ConfigError": (
        "evaluation/test_fidelity.py::test_clip_scores_are_cosines_and_come_with_the_scores_of_other_prompts",
    ),
    "evaluation/clip_scores.py:by_clip ModelError": (
        "evaluation/test_fidelity.py::test_a_model_that_is_not_clip_is_refused_in_one_sentence",
        "evaluation/test_fidelity.py::test_clip_scores_are_cosines_and_come_with_the_scores_of_other_prompts",
    ),
    "launch/launcher.py:launch Interrupted": (
        "launch/test_vitals.py::test_after_its_walltime_a_launch_saves_and_ends_with_one_sentence",
    ),
    "store/run_folder.py:RunFolder.explaining StoreFull": (
        "encode/test_faults.py::test_a_full_disk_is_reported_in_one_sentence_and_the_store_stays_valid",
        "train/test_loop.py::test_a_full_disk_stops_the_run_in_one_sentence_and_with_free_space_the_same_command_resumes",
    ),
    "store/publishing/lock.py:_busy StoreBusy": (
        "encode/test_driver.py::test_a_second_encode_is_refused_and_the_error_names_the_holder_of_the_folder",
    ),
}
"""Place -> tests outside of `tests/advice/` that provoke the message and do what it says."""

NOT_HERE: dict[str, tuple[str, ...]] = {
    "bench/encode/naive.py:_await ExecutorError": ("it takes minutes of waiting for models that do not load",),
    "bench/encode/naive.py:gather ExecutorError": (
        "fewer workers help against memory that runs out; a test that fills the machine's memory harms others",
    ),
    "bench/encode/warm.py:load_and_wait ExecutorError": ("it takes minutes of waiting for models that do not load",),
    "deploy/cluster_file.py:ClusterFile._explain ConfigError": ("it installs a package",),
    "encode/driver.py:_Run._fold StoreError": ("no input is known that makes the counts differ: it would be a bug",),
    "encoders/finding/locate.py:_download ModelMissing": (
        "`hf download` needs a network; pointing to a folder is done in tests/advice/test_models.py",
        "a hub that has the model and not its subfolder needs a network",
    ),
    "executors/attempts.py:lost WorkerLost": ("watching a worker is for a person",),
    "launch/attempt.py:LaunchState._world SchedulerError": (
        "all workers of a cluster have to stay away for a minute; a training that was killed goes on from its "
        "checkpoint in tests/train/test_denoiser_rank.py",
    ),
    "launch/attempt.py:no_scheduler SchedulerError": (
        "a cluster of processes has to die and start again (tests/launch/test_launcher.py kills one, with --slow)",
    ),
    "store/run_folder.py:RunFolder.filesystem ConfigError": ("it installs a package",),
    "store/zarr_store.py:ZarrStore.write StoreError": (
        "it needs a zarr that writes other objects, and installs another",
    ),
}
"""Place -> why nothing here does what a message of it says; one reason for each such message."""


@cache
def known() -> Counter[str]:
    """How many tests, or reasons for having none, there are for each place."""
    found = Counter({place: len(tests) for place, tests in places_with_tests(TESTS / "advice").items()})
    found.update({place: len(tests) for place, tests in ELSEWHERE.items()})
    found.update({place: len(reasons) for place, reasons in NOT_HERE.items()})
    return found


@pytest.mark.parametrize("module", modules())
def test_a_message_that_tells_what_to_do_has_a_test_that_does_it(module: str) -> None:
    for place, texts in messages(module).items():
        assert known()[place] >= len(texts), (
            f"{place} tells a user what to do in {len(texts)} messages, and has {known()[place]} tests. Write a test "
            "in tests/advice/ that provokes the message and does what it says, name one in ELSEWHERE, or say in "
            f"NOT_HERE why that cannot be done: {texts}"
        )


def test_messages_are_found() -> None:
    assert sum(len(messages(module)) for module in modules()) > 200


def test_the_tables_name_messages_that_are_there() -> None:
    assert sorted({*ELSEWHERE, *NOT_HERE, *places_with_tests(TESTS / "advice")} - places()) == []


def test_the_tests_that_are_named_are_there() -> None:
    wrong = []
    for test in (one for tests in ELSEWHERE.values() for one in tests):
        path, _, name = test.partition("::")
        functions = ast.walk(ast.parse((TESTS / path).read_text(encoding="utf-8")))
        if name not in {node.name for node in functions if isinstance(node, ast.FunctionDef)}:
            wrong.append(test)
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "It was not touched. Encode again.",
        "images and captions belong together; give both.",
        "It is held by another; wait until that ends.",
        "Nothing was started; the same command goes on.",
        "pad is 'x'; it can be length or full.",
        "bench sample needs at least one prompt (prompts).",
    ],
)
def test_advice_is_recognised(text: str) -> None:
    assert ADVICE.search(text)


@pytest.mark.parametrize("text", ["The file is empty.", "Chunk 3 is encoded again: a shard is missing."])
def test_what_only_tells_is_no_advice(text: str) -> None:
    assert not ADVICE.search(text)
