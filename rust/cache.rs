// SPDX-License-Identifier: GPL-2.0

//! Slab caches for what each I/O allocates: a [`KBox`] comes from krealloc(), which costs several times what
//! an allocation of known size does.
//!
//! C: `mm/slub.c`.

use crate::ffi::*;
use core::{alloc::Layout, marker::PhantomData, mem, ptr, ptr::NonNull};
use kernel::{
    alloc::{AllocError, Allocator, Box, Flags, NumaNode},
    bindings,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// A slab cache.
///
/// # Invariants
///
/// `cache` is null or a cache of objects with this layout.
pub(crate) struct Cache {
    name: &'static CStr,
    layout: Layout,
    cache: Atomic<*mut bindings::kmem_cache>,
}

impl Cache {
    /// A cache for values of `T`, that [`Cache::create`] makes.
    pub(crate) const fn new<T>(name: &'static CStr) -> Self {
        Self {
            name,
            layout: Layout::new::<T>(),
            cache: Atomic::new(ptr::null_mut()),
        }
    }

    /// Creates the cache. May sleep. Errors: ENOMEM.
    ///
    /// # Safety
    ///
    /// It has not been created yet, and what it returns is dropped when all its objects have been freed.
    pub(crate) unsafe fn create(&'static self) -> Result<Created> {
        let mut args = bindings::kmem_cache_args {
            align: self.layout.align() as u32,
            ctor: Some(construct),
            ..Default::default()
        };
        // SAFETY: The arguments are valid during the call, which copies the name.
        let cache = unsafe {
            bindings::__kmem_cache_create_args(
                self.name.as_char_ptr(),
                self.layout.size() as u32,
                &mut args,
                0,
            )
        };
        if cache.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: Created just now.
        self.cache.store(cache, Relaxed);
        Ok(Created(self))
    }

    #[inline(always)]
    fn get(&self) -> *mut bindings::kmem_cache {
        // SAFETY: An atomic may be read at any time; `Atomic` makes a call of it.
        unsafe { self.cache.as_ptr().read_volatile() }
    }
}

/// Objects of a cache that has a constructor are not cleared by CONFIG_INIT_ON_ALLOC_DEFAULT_ON: who allocates
/// one writes all of it.
extern "C" fn construct(_object: *mut c_void) {}

/// A cache that there is.
pub(crate) struct Created(&'static Cache);

impl Drop for Created {
    fn drop(&mut self) {
        let cache = self.0.get();
        // INVARIANT: It is none any more.
        self.0.cache.store(ptr::null_mut(), Relaxed);
        // SAFETY: By the safety requirements of `create`, all objects have been freed.
        unsafe { bindings::kmem_cache_destroy(cache) };
    }
}

/// A type with a cache.
///
/// # Safety
///
/// The cache is [`Cache::new`] of this type.
pub(crate) unsafe trait Cached: 'static {
    fn cache() -> &'static Cache;
}

/// The allocator of a [`CachedBox`].
pub(crate) struct FromCache<T>(PhantomData<T>);

/// A value in memory from the cache of its type.
pub(crate) type CachedBox<T> = Box<T, FromCache<T>>;

// SAFETY: What the cache allocates stays valid until it is freed, and has the layout of `T`; nothing else is
// allocated.
unsafe impl<T: Cached> Allocator for FromCache<T> {
    const MIN_ALIGN: usize = mem::align_of::<T>();

    #[inline]
    fn alloc(layout: Layout, flags: Flags, _: NumaNode) -> Result<NonNull<[u8]>, AllocError> {
        let cache = T::cache().get();
        if layout != Layout::new::<T>() || cache.is_null() {
            return Err(AllocError);
        }
        // SAFETY: `Flags` is the number, or this would not compile.
        let flags = unsafe { mem::transmute::<Flags, u32>(flags) };
        // SAFETY: By the type invariants of `Cache`.
        let object = unsafe { pin_guard_kmem_cache_alloc(cache, flags) };
        let object = NonNull::new(object.cast()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(object, layout.size()))
    }

    // A box does not grow.
    unsafe fn realloc(
        ptr: Option<NonNull<u8>>,
        layout: Layout,
        _old_layout: Layout,
        flags: Flags,
        nid: NumaNode,
    ) -> Result<NonNull<[u8]>, AllocError> {
        match ptr {
            None => Self::alloc(layout, flags, nid),
            Some(_) => Err(AllocError),
        }
    }

    #[inline]
    unsafe fn free(ptr: NonNull<u8>, _layout: Layout) {
        // SAFETY: By the safety requirements it is from `alloc`, so from this cache.
        unsafe { bindings::kmem_cache_free(T::cache().get(), ptr.as_ptr().cast()) };
    }
}
