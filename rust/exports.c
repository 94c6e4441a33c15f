// SPDX-License-Identifier: GPL-2.0
/* Rust's module! cannot declare the symbols that a module exports, nor its version. */

#include <linux/export.h>
#include <linux/module.h>

#include "exports_generated.h"

/* The version of the project. -dev: not released; see CONTRIBUTING.md. */
MODULE_VERSION("0.1.0-dev");
