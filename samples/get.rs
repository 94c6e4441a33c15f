// SPDX-License-Identifier: GPL-2.0

//! Pages held by plain references (FOLL_GET): the way that loses data when the process forks.

use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// User memory, held by a reference on each page, to be written.
///
/// # Invariants
///
/// Owns a reference on each of `pages`, which hold the memory from `offset` bytes on.
pub(crate) struct GetPages {
    pages: KVVec<*mut bindings::page>,
    offset: usize,
}

// SAFETY: A page reference may be dropped by any thread.
unsafe impl Send for GetPages {}

impl GetPages {
    /// Looks up `len` bytes of user memory at `addr`, of the current task. May sleep.
    ///
    /// Errors: EINVAL beyond the address space; EFAULT for unmapped or read-only memory; ENOMEM.
    pub(crate) fn new(addr: usize, len: usize) -> Result<Self> {
        addr.checked_add(len).ok_or(EINVAL)?;
        let offset = addr % PAGE_SIZE;
        let count = (offset + len).div_ceil(PAGE_SIZE);
        let mut this = Self {
            pages: KVVec::with_capacity(count, GFP_KERNEL)?,
            offset,
        };
        while this.pages.len() < count {
            let have = this.pages.len();
            let want = count - have;
            // SAFETY: There is room for `want` more pages. An ioctl has a user's mm.
            let got = unsafe {
                bindings::get_user_pages_fast(
                    addr - offset + have * PAGE_SIZE,
                    want as c_int,
                    bindings::FOLL_WRITE,
                    this.pages.as_mut_ptr().add(have),
                )
            };
            match got {
                0 => return Err(EFAULT),
                e if e < 0 => return Err(Error::from_errno(e)),
                // SAFETY: That many have been filled in. INVARIANT: Their references are ours.
                got => unsafe { this.pages.inc_len(got as usize) },
            }
        }
        Ok(this)
    }

    pub(crate) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Copies `data` to `offset` bytes into the memory, as far as that goes.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        let mut at = self.offset + offset;
        let mut data = data;
        while let Some(&page) = self.pages.get(at >> PAGE_SHIFT) {
            let in_page = at % PAGE_SIZE;
            let (now, later) = data.split_at(data.len().min(PAGE_SIZE - in_page));
            if now.is_empty() {
                return;
            }
            // The user may write meanwhile: C's memcpy() may race, Rust's copies must not.
            // SAFETY: We hold the page; the copy stays inside it.
            unsafe {
                let mapped = bindings::kmap_local_page(page);
                let to = mapped.cast::<u8>().add(in_page);
                bindings::memcpy(to.cast(), now.as_ptr().cast(), now.len());
                bindings::kunmap_local(mapped);
            }
            at += now.len();
            data = later;
        }
    }
}

impl Drop for GetPages {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the references are ours. Dropped in process context.
        unsafe {
            for &page in self.pages.iter() {
                bindings::set_page_dirty_lock(page);
            }
            let pages = bindings::release_pages_arg {
                pages: self.pages.as_mut_ptr(),
            };
            bindings::release_pages(pages, self.pages.len() as c_int);
        }
    }
}
