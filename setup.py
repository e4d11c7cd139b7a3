"""The wheel's resources: what the library reads from ``data`` and ``notebooks``. All else stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESOURCES = ("data/**/*.csv", "data/**/*.json", "data/**/*.safetensors", "notebooks/*.ipynb")


class BuildWithResources(build_py):
    """Copies them to ``nsrlib/resources``. An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source in (path for pattern in RESOURCES for path in Path().glob(pattern)):
                target = Path(self.build_lib, "nsrlib", "resources", source)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithResources})
