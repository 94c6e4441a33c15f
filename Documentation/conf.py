# SPDX-License-Identifier: GPL-2.0
"""What Sphinx has to know; make check builds the HTML in out/documentation."""

project = "pin_guard"
exclude_patterns = ["reliability-faults.rst"]  # reliability.rst includes it
highlight_language = "none"
nitpicky = True
