# SPDX-License-Identifier: GPL-2.0
#
# The user's commands.  What kbuild builds is in Kbuild.

SANDBOX := $(CURDIR)/tools/sandbox
QUIET := $(if $(filter-out 0,$(V)),,-s)
MAKEFLAGS += --no-print-directory

# The sandbox's kernel; see tools/sandbox.
ifdef KERNEL
export PIN_GUARD_KERNEL := $(KERNEL)
endif
ifdef ARCH
export PIN_GUARD_ARCH := $(ARCH)
endif

help:
	@echo 'make demo       the bug and the cure, over NFS and Ceph in a VM: one table'
	@echo 'make picture    a time line of one lost read and of the same with the module, as SVG'
	@echo 'make test       check, and the quick set of the tests, in two VMs'
	@echo 'make test FULL=1          ... all tests;  make test LIST=1: their names'
	@echo 'make test TESTS="nfs.sh send.sh:lo loss"    ... these, by name or pattern'
	@echo 'make check      the sources, the documents, the licences, the commit messages'
	@echo 'make soak       reads and writes raced by forks, for ten minutes in the VM'
	@echo 'make compare    the kernel'"'"'s own tests, fio and stress-ng: the same without and with'
	@echo 'make bench      what it costs, as ratios, measured in the VM: tables and figures'
	@echo 'make vm         a shell in the VM, module and samples at hand'
	@echo 'make modules    pin_guard.ko and the samples, for the kernel of the VM'
	@echo 'make modules KDIR=TREE            ... for any prepared Rust-enabled tree'
	@echo 'make modules_install KDIR=TREE    install pin_guard.ko; SAMPLES=1: the samples, too'
	@echo 'make patch KDIR=TREE              a patch that adds the module to a kernel tree'
	@echo 'make deb        the Debian package pin-guard-dkms;  make deb-test: tries it on a Debian'
	@echo '                that is thrown away'
	@echo 'make bnx2-firmware    what the bnx2 driver loads, from Debian (not free); else a stub'
	@echo 'make farm       kernel, modules, tests and a root for a CI farm; farm-test: tries LAVA'
	@echo '                and labgrid on them (see Documentation/farm.rst)'
	@echo 'make rustdoc    HTML of the Rust API'
	@echo 'make KERNEL=debug ...             with a debug kernel (KASAN, lockdep, kmemleak); it is'
	@echo '                built once, in a quarter of an hour'
	@echo 'make KERNEL=7.2 ...               with an older one of Debian'"'"'s kernels'
	@echo 'make ARCH=arm64 ...               with the arm64 kernel, emulated; KERNEL=16k: such pages'
	@echo 'make clean      remove what was built;  make clean-cache: the sandbox'
	@echo
	@echo 'All but `modules KDIR=` need root and use a sandbox that the first of them'
	@echo 'makes (see tools/sandbox; V=1 shows commands).'

# In the sandbox KDIR is set by its environment.  Modules get no BTF of their own,
# which would need the vmlinux of a full build.
ifdef KDIR
modules:
	@args=$$(tools/check-tree '$(KDIR)') && \
	kernel=$$(cat '$(KDIR)/include/config/kernel.release') && \
	{ [ "$$(cat out/kernel 2>/dev/null)" = "$$kernel" ] || $(MAKE) clean-objects; } && \
	mkdir -p out && echo "$$kernel" >out/kernel && \
	$(MAKE) $(QUIET) -C '$(KDIR)' M='$(CURDIR)' $$args CONFIG_DEBUG_INFO_BTF_MODULES= $@ && \
	echo "pin_guard: $@: $$kernel:" $$(sed 's/o$$/ko/' modules.order)

# A directory with what is to be installed. Without the kernel's key kbuild's signing only
# prints errors.
modules_install:
	@args=$$(tools/check-tree '$(KDIR)') && \
	kernel=$$(cat '$(KDIR)/include/config/kernel.release') && \
	{ [ "$$(cat out/kernel 2>/dev/null)" = "$$kernel" ] && [ -e rust/pin_guard.ko ] || \
		{ echo "pin_guard: no modules for $$kernel; fix: make modules KDIR=$(KDIR)" >&2; exit 1; }; } && \
	key=$$(sed -n 's/^CONFIG_MODULE_SIG_KEY=//p' '$(KDIR)/include/config/auto.conf' | tr -d '"') && \
	{ case $$key in pkcs11:*) ;; /*) [ -f "$$key" ] ;; *) [ -f "$(KDIR)/$$key" ] ;; esac || \
		args="$$args CONFIG_MODULE_SIG_ALL="; } && \
	rm -rf out/install && mkdir -p out/install && \
	ln -s '$(CURDIR)/rust' '$(CURDIR)/samples' out/install && \
	grep '^rust/$(if $(SAMPLES),\|^samples/)' modules.order >out/install/modules.order && \
	$(MAKE) $(QUIET) -C '$(KDIR)' M='$(CURDIR)/out/install' $$args \
		$(if $(INSTALL_MOD_PATH),INSTALL_MOD_PATH='$(abspath $(INSTALL_MOD_PATH))') $@ && \
	echo "pin_guard: $@: $$kernel:" $$(sed 's/o$$/ko/' out/install/modules.order)

# With the flags that kbuild gave to rustc. The examples, those of api.rst among them, are compiled
# and not run. A srctree/ link must exist in the tree, and goes to that file of the release.
rustdoc: modules
	@command=$$(sed -n '1s/^[^=]*:= \(.*\) --out-dir .*/\1/p' rust/.main.o.cmd | \
		sed 's/ rustc / RUSTC_BOOTSTRAP=1 rustdoc /; s/--emit=[^ ]*//g') && \
	eval "$$command --test --no-run --test-args=-q -L rust --extern pin_guard rust/main.rs" && \
	rm -rf out/rustdoc && \
	eval "$$command -Dwarnings --output out/rustdoc rust/main.rs" && \
	for file in $$(grep -rho 'href="srctree/[^"]*' out/rustdoc/pin_guard | sed 's/[^/]*.//' | sort -u); do \
		[ -e "$(KDIR)/$$file" ] || \
			{ echo "pin_guard: rust/: a link to srctree/$$file, which $(KDIR) has not" >&2; exit 1; }; \
	done && \
	tree=https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree && \
	tag=v$$(sed 's/^\([0-9]*\.[0-9]*\).*/\1/' out/kernel) && \
	find out/rustdoc/pin_guard -name '*.html' -exec \
		sed -i "s|href=\"srctree/\([^\"]*\)\"|href=\"$$tree/\1?h=$$tag\"|g" {} + && \
	echo 'pin_guard: out/rustdoc/pin_guard/index.html'

# As `make -C tools/testing/selftests TARGETS=pin_guard install` in a kernel tree.
kselftest:
	@args=$$(tools/check-tree '$(KDIR)') && \
	mkdir -p out && \
	{ [ "$$(cat out/kselftest.arch 2>/dev/null)" = '$(ARCH)' ] || $(MAKE) clean-selftests; } && \
	echo '$(ARCH)' >out/kselftest.arch && \
	$(MAKE) $(QUIET) -C selftests KSFT='$(KDIR)/tools/testing/selftests' \
		KDIR='$(KDIR)' INSTALL_PATH='$(CURDIR)/out/kselftest' $$args \
		CONFIG_DEBUG_INFO_BTF_MODULES= install

# A NIC for the VM.
bnx2-model:
	@tools/cargo build
else
modules rustdoc kselftest bnx2-model:
	@$(SANDBOX) enter make -j$$(nproc) $@

modules_install:
	@echo 'pin_guard: modules_install needs a kernel; fix: KDIR=/lib/modules/$$(uname -r)/build or another prepared tree' >&2; exit 1
endif

patch:
	@$(if $(KDIR),tools/patch '$(KDIR)',$(SANDBOX) enter sh -c 'tools/patch "$$KDIR"')

deb:
	@$(SANDBOX) deb tools/deb

deb-test: deb kselftest
	@$(SANDBOX) deb tools/deb-test

bnx2-firmware: out/firmware-debian
out/firmware-debian:
	@mkdir -p out
	@$(SANDBOX) enter bnx2-model/debian-firmware $@

check test soak compare demo picture bench:
	@tools/$@

farm:
	@PIN_GUARD_PACKAGES='$(PACKAGES)' $(SANDBOX) enter farm/artefacts

farm-test:
	@farm/test

vm: modules
	@tools/vm shell

# Not through kbuild, which would need a tree for it.
clean-objects:
	@find . -path ./.git -prune -o \( -name '*.o' -o -name '*.ko' -o -name '*.mod' \
		-o -name '*.mod.c' -o -name '.*.cmd' -o -name '*.rmeta' -o -name '*.rsi' \
		-o -name '*_generated.h' -o -name '*.long-type-*.txt' -o -name modules.order -o -name Module.symvers \
		-o -name .module-common.o \) -type f -exec rm -f {} +

clean-selftests:
	@cd selftests && rm -f $$(sed -n '/^TEST_GEN_PROGS.* := /,/^# end/s/^\t\(.*\) \\$$/\1/p' Makefile)

clean: clean-objects clean-selftests
	@rm -rf out bnx2-model/target bnx2-model/fuzz/target

clean-cache:
	@$(SANDBOX) clean

.PHONY: help modules modules_install patch deb deb-test rustdoc kselftest bnx2-model bnx2-firmware check \
	test soak compare demo picture bench vm farm farm-test clean clean-objects clean-selftests clean-cache
