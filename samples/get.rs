// SPDX-License-Identifier: GPL-2.0

//! User pages held by plain references (FOLL_GET), which loses data when the process forks.

use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// User memory that a device writes to, held by a plain reference on each page.
///
/// # Invariants
///
/// Owns a reference on each of `pages`. The memory begins `offset` bytes into the first page.
pub(crate) struct GetPages {
    pages: KVVec<*mut bindings::page>,
    offset: usize,
}

// SAFETY: Any thread may drop a page reference.
unsafe impl Send for GetPages {}

impl GetPages {
    /// Looks up the pages of `len` bytes of the current task's user memory at `addr`. May sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the range goes beyond the address space.
    /// - `EFAULT`: a page is not mapped, or is not writable.
    /// - `ENOMEM`: there is no memory for a page, or for the list of the pages.
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
            // SAFETY: `pages` has room for `want` more pages. A task in an ioctl has an mm.
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
                // SAFETY: The function has set `got` pages.
                // INVARIANT: This value owns their references.
                got => unsafe { this.pages.inc_len(got as usize) },
            }
        }
        Ok(this)
    }

    pub(crate) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Copies `data` to the bytes that begin `offset` bytes into the memory, up to its end.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        let mut at = self.offset + offset;
        let mut data = data;
        while let Some(&page) = self.pages.get(at >> PAGE_SHIFT) {
            let in_page = at % PAGE_SIZE;
            let (now, later) = data.split_at(data.len().min(PAGE_SIZE - in_page));
            if now.is_empty() {
                return;
            }
            // User space may write to the page meanwhile: C's memcpy() may race, Rust's copies must
            // not.
            // SAFETY: This value holds the page, and the copy stays within the page.
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
        // SAFETY: By the type invariants, this value owns the references. It drops in process
        // context.
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
