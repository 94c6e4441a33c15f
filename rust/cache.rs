// SPDX-License-Identifier: GPL-2.0

//! Slab caches for the objects that each I/O allocates. A [`KBox`] comes from krealloc(), which
//! costs several times as much as an allocation of a known size.
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
    /// Returns a cache for values of `T`. [`Cache::create`] creates it.
    pub(crate) const fn new<T>(name: &'static CStr) -> Self {
        Self {
            name,
            layout: Layout::new::<T>(),
            cache: Atomic::new(ptr::null_mut()),
        }
    }

    /// Creates the cache. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the cache.
    ///
    /// # Safety
    ///
    /// The cache must not exist yet. The caller must drop the returned value only when all objects
    /// of the cache have been freed.
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
        // INVARIANT: The cache was created just now, with this layout.
        self.cache.store(cache, Relaxed);
        Ok(Created(self))
    }

    #[inline(always)]
    fn get(&self) -> *mut bindings::kmem_cache {
        // Not `Atomic::load()`, which calls a C helper.
        // SAFETY: The pointer is valid, and an atomic may be read at any time.
        unsafe { self.cache.as_ptr().read_volatile() }
    }
}

/// Does nothing. The slab allocator does not clear the objects of a cache that has a constructor
/// (CONFIG_INIT_ON_ALLOC_DEFAULT_ON), and nobody needs that: whoever allocates an object writes all
/// of it.
extern "C" fn construct(_object: *mut c_void) {}

/// A cache that exists, from [`Cache::create`] to drop.
pub(crate) struct Created(&'static Cache);

impl Drop for Created {
    fn drop(&mut self) {
        let cache = self.0.get();
        // INVARIANT: Null, because the cache is destroyed below.
        self.0.cache.store(ptr::null_mut(), Relaxed);
        // SAFETY: By the safety requirements of `create`, all objects have been freed.
        unsafe { bindings::kmem_cache_destroy(cache) };
    }
}

/// A type that has a slab cache.
///
/// # Safety
///
/// `cache` must return a cache that [`Cache::new`] made for this type.
pub(crate) unsafe trait Cached: 'static {
    fn cache() -> &'static Cache;
}

/// The allocator of a [`CachedBox`], which takes memory from the cache of `T`.
pub(crate) struct FromCache<T>(PhantomData<T>);

/// A value in memory from the cache of its type.
pub(crate) type CachedBox<T> = Box<T, FromCache<T>>;

// SAFETY: An object of the cache stays valid until it is freed, and has the layout of `T`. The
// allocator allocates nothing else.
unsafe impl<T: Cached> Allocator for FromCache<T> {
    const MIN_ALIGN: usize = mem::align_of::<T>();

    #[inline]
    fn alloc(layout: Layout, flags: Flags, _: NumaNode) -> Result<NonNull<[u8]>, AllocError> {
        let cache = T::cache().get();
        if layout != Layout::new::<T>() || cache.is_null() {
            return Err(AllocError);
        }
        // SAFETY: `Flags` wraps this number; if it had another size, this would not compile.
        let flags = unsafe { mem::transmute::<Flags, u32>(flags) };
        // SAFETY: By the type invariants of `Cache`: `cache` is not null, as checked above.
        let object = unsafe { pin_guard_kmem_cache_alloc(cache, flags) };
        let object = NonNull::new(object.cast()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(object, layout.size()))
    }

    // A box never grows.
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
        // SAFETY: By the safety requirements, `ptr` comes from `alloc`, that is from this cache.
        unsafe { bindings::kmem_cache_free(T::cache().get(), ptr.as_ptr().cast()) };
    }
}
