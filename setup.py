"""The packages to install: the library's folders, and params/, which lies beside it, as its presets."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dcal_core*"]), "dcal_core.params"],
    package_dir={"dcal_core.params": "params"},
    package_data={"dcal_core.params": ["*.yaml"], "dcal_core.deploy": ["assets/*"]},
)
