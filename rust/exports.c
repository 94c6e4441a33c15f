// SPDX-License-Identifier: GPL-2.0
/* What Rust's module! cannot state: the symbols that the module exports, and its version. */

#include <linux/export.h>
#include <linux/module.h>

#include "exports_generated.h"

/* No other file has it. -dev: not released; see CONTRIBUTING.md. */
MODULE_VERSION("0.1.0-dev");
