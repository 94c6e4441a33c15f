// SPDX-License-Identifier: GPL-2.0
/* Exports the crate's symbols to the modules that use it. */

#include <linux/export.h>

#include "exports_generated.h"
