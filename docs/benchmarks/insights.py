"""Makes the data of docs/benchmarks/insights.md: captions and pictures of coco-mini, recombined.

python docs/benchmarks/insights.py ../shared/data/coco-mini FOLDER --rows 82783          # captions alone
python docs/benchmarks/insights.py ../shared/data/coco-mini FOLDER --times 100           # every picture 100 times
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--times", type=int, default=0)
    given = parser.parse_args()
    document = json.loads((given.source / "captions.json").read_text(encoding="utf-8"))
    names = [image["file_name"] for image in document["images"]]
    rng = random.Random(0)
    # A caption is made of thirds of three others: as long as real ones, and nearly all different, as they are.
    words = [annotation["caption"].split() for annotation in document["annotations"]]
    rows = given.rows or given.times * len(names)
    images = [{"id": i + 1, "file_name": names[i % len(names)], "license": i % 8 + 1} for i in range(rows)]
    annotations = []
    for i in range(5 * rows + (198 if rows == 82783 else 0)):  # train2014 has 414,113 captions of 82,783 images
        first, second, third = (rng.choice(words) for _ in range(3))
        middle = second[len(second) // 3 : len(second) - len(second) // 3]
        text = " ".join([*first[: (len(first) + 2) // 3], *middle, *third[len(third) - len(third) // 3 :]])
        annotations.append({"id": i + 1, "image_id": i % rows + 1, "caption": text})
    given.folder.mkdir(parents=True, exist_ok=True)
    made = {"images": images, "annotations": annotations, "licenses": document["licenses"]}
    (given.folder / "captions.json").write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
