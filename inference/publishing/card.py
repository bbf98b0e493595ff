"""The files that a repository needs besides the model: which files are LFS's, and a card in Chinese and English.

Card metadata: https://huggingface.co/docs/hub/model-cards; ModelScope and OpenXLab read the same head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.sizes import megabytes

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.model", "*.gguf", "*.pt", "*.pth", "*.onnx", "*.h5", "*.npz", "*.zip")
LARGE_JSON_BYTES = 1_000_000  # a tokenizer.json of several MB makes a git history heavy and its diffs useless
_LFS_LINE = "{} filter=lfs diff=lfs merge=lfs -text\n"

_CARD = """\
---
license: {licence}
language:
- zh
- en
pipeline_tag: text-generation
library_name: transformers
tags:
- {kind}
---

# {name}

## 中文

{zh_what}，共 {count} 个文件，{size}。

用 internlm-stack 运行：

```bash
MODEL=/path/to/{name} make run
```

许可证：{zh_licence}

## English

{en_what}; {count} files, {size}.

To run it with internlm-stack:

```bash
MODEL=/path/to/{name} make run
```

Licence: {en_licence}
"""


def gitattributes(files: Mapping[str, Path], present: str = "") -> str:
    """The lines that are `present` already, and those that these files need besides."""
    patterns = [*LFS_PATTERNS, *(name for name, path in sorted(files.items()) if _is_large_json(name, path))]
    known = {line.split()[0] for line in present.splitlines() if "filter=lfs" in line}
    start = present if not present or present.endswith("\n") else present + "\n"
    return start + "".join(_LFS_LINE.format(pattern) for pattern in patterns if pattern not in known)


def model_card(name: str, files: Mapping[str, Path]) -> str:
    """For a folder without a README.md. What it says is read from the files; the author may say more."""
    config = _config(files)
    layout = str(config.get("model_type") or ("gguf" if any(one.endswith(".gguf") for one in files) else "unknown"))
    shape = ", ".join(
        f"{label} {config[key]}"
        for label, key in (
            ("layers", "num_hidden_layers"),
            ("hidden size", "hidden_size"),
            ("vocabulary", "vocab_size"),
        )
        if key in config
    )
    has_licence = any(one.upper().startswith("LICENSE") for one in files)
    return _CARD.format(
        name=name,
        kind=layout,
        licence="other",
        count=len(files),
        size=megabytes(sum(path.stat().st_size for path in files.values())),
        zh_what=f"对话模型，布局 `{layout}`" + (f"（{shape}）" if shape else ""),
        en_what=f"A chat model in the layout `{layout}`" + (f" ({shape})" if shape else ""),
        zh_licence="见 LICENSE 文件。" if has_licence else "与其基础模型相同。",
        en_licence="see the file LICENSE." if has_licence else "that of its base model.",
    )


def _is_large_json(name: str, path: Path) -> bool:
    return name.endswith(".json") and path.stat().st_size >= LARGE_JSON_BYTES


def _config(files: Mapping[str, Path]) -> dict[str, Any]:
    try:
        content = json.loads(files["config.json"].read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
