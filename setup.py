"""Everything about the package is in pyproject.toml, except that a wheel takes the files of `data/` with it.

The library reads them from `fleke_lib/data`, where a wheel puts them, or in a checkout from `data/`.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# not the scripts and sources that they are made from
FILES = ("*.json", "*.jsonl", "*.md", "*.safetensors", "mkvs/*", "reproduction/*")


class WithData(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, target in self.shipped().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self.shipped().values())]

    def shipped(self) -> dict[Path, Path]:
        """Where each data file goes."""
        target = Path(self.build_lib) / "fleke_lib" / "data"
        found = [path for pattern in FILES for path in Path("data").glob(pattern) if path.is_file()]
        return {path: target / path.relative_to("data") for path in found}


setup(cmdclass={"build_py": WithData})
