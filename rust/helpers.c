// SPDX-License-Identifier: GPL-2.0
/*
 * Functions that wrap the inline functions and macros of the C API, one each, because Rust cannot
 * call these; and the stand-ins, which redirection needs. ffi.rs declares all of them.
 */

#include <linux/export.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/udp.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>
#include <linux/workqueue.h>

#include <net/inet_connection_sock.h>
#include <net/sock.h>

#include "helpers.h"

/* notrace: the ftrace callbacks call these functions. */

/* With a constant index, ftrace_regs_get_argument() is one load. */
notrace unsigned long pin_guard_ftrace_regs_get_argument0(struct ftrace_regs *fregs)
{
	return ftrace_regs_get_argument(fregs, 0);
}

notrace unsigned long pin_guard_ftrace_regs_get_argument1(struct ftrace_regs *fregs)
{
	return ftrace_regs_get_argument(fregs, 1);
}

notrace unsigned long pin_guard_ftrace_regs_get_argument(struct ftrace_regs *fregs, unsigned int n)
{
	return ftrace_regs_get_argument(fregs, n);
}

notrace void pin_guard_ftrace_regs_set_instruction_pointer(struct ftrace_regs *fregs,
							   unsigned long ip)
{
	ftrace_regs_set_instruction_pointer(fregs, ip);
}

void *pin_guard_chain[1 << PIN_GUARD_CHAIN_BITS];

notrace unsigned long pin_guard_chain_of(const struct mm_struct *mm)
{
	return hash_ptr(mm, PIN_GUARD_CHAIN_BITS);
}

/*
 * The ftrace callback of copy_page_range(), which a fork runs for each VMA. It is in C because in
 * Rust it would have to call helpers, even if the mm has no windows.
 */
notrace void pin_guard_copy_page_range_enter(unsigned long ip, unsigned long parent_ip,
					     struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct vm_area_struct *src = (void *)ftrace_regs_get_argument(fregs, 1);

	/* F2 of the proof in window/mod.rs. If the hash chain is empty, F3 finds no window. */
	smp_mb();
	if (unlikely(READ_ONCE(pin_guard_chain[hash_ptr(src->vm_mm, PIN_GUARD_CHAIN_BITS)])))
		pin_guard_copy_page_range_look(ip, parent_ip, ops, fregs);
}

notrace bool pin_guard_user_backed_iter(const struct iov_iter *iter)
{
	return user_backed_iter(iter);
}

const int pin_guard_IOCB_NOWAIT = IOCB_NOWAIT;
const unsigned int pin_guard_UFFDIO_MOVE = UFFDIO_MOVE;

/* Memory allocation profiling counts the objects for this line: kmem_cache_alloc() is a macro. */
void *pin_guard_kmem_cache_alloc(struct kmem_cache *cache, gfp_t flags)
{
	return kmem_cache_alloc(cache, flags);
}

/* kallsyms_lookup_name() is not exported. The probe finds the symbol, and is never armed. */
int pin_guard_lookup(const char *name, unsigned long *addr)
{
	struct kprobe probe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	int ret = register_kprobe(&probe);

	if (!ret) {
		*addr = (unsigned long)probe.addr;
		unregister_kprobe(&probe);
	}
	return ret;
}

bool pin_guard_within_module(unsigned long addr, const struct module *module)
{
	return within_module(addr, module);
}

struct mm_struct *pin_guard_userfaultfd_mm(const struct file *file)
{
	return ((struct userfaultfd_ctx *)file->private_data)->mm;
}

bool pin_guard_userfaultfd_rwp(struct vm_area_struct *vma)
{
#ifdef VM_UFFD_RWP	/* since 7.3 */
	return userfaultfd_rwp(vma);
#else
	return false;
#endif
}

/* Returns the flags that it has cleared. */
unsigned long pin_guard_vm_access_clear(struct vm_area_struct *vma)
{
	unsigned long flags = vma->vm_flags & VM_ACCESS_FLAGS;

	vm_flags_clear(vma, flags);
	return flags;
}

void pin_guard_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vm_flags_set(vma, flags);
}

void __user *pin_guard_iter_iov_addr(const struct iov_iter *iter)
{
	return iter_iov_addr(iter);
}

size_t pin_guard_iter_iov_len(const struct iov_iter *iter)
{
	return iter_iov_len(iter);
}

unsigned long pin_guard_untagged_addr(unsigned long addr)
{
	return untagged_addr(addr);
}

bool pin_guard_mmap_lock_speculate_try_begin(struct mm_struct *mm, unsigned int *seq)
{
	return mmap_lock_speculate_try_begin(mm, seq);
}

int pin_guard_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

struct folio *pin_guard_page_folio(struct page *page)
{
	return page_folio(page);
}
/* Inline functions of the crate call this, and these are compiled into drivers. */
EXPORT_SYMBOL_GPL(pin_guard_page_folio);

struct page *pin_guard_folio_end(struct folio *folio)
{
	return folio_page(folio, folio_nr_pages(folio));
}

/* Returns the number of pages that @run touches. */
static long run_pages(const struct bio_vec *run)
{
	return (run->bv_offset + (size_t)run->bv_len + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/*
 * Like gup_put_folio() in mm/gup.c, but does not count the statistics. Returns true if it has
 * dropped the last reference: the caller then calls __folio_put().
 *
 * @large: folio_has_pincount(), of a 64-bit kernel
 */
static __always_inline bool unpin_and_test(struct folio *folio, bool large, long refs)
{
	BUILD_BUG_ON(!IS_ENABLED(CONFIG_64BIT));
	if (large)
		atomic_sub(refs, &folio->_pincount);
	else
		refs *= GUP_PIN_COUNTING_BIAS;
	return folio_ref_sub_and_test(folio, refs);
}

/*
 * The slow path of unpin(), which has released @released pages of node @nid without counting them.
 * If @folio is not NULL, it has also dropped the last reference on @folio. Frees @folio, and
 * releases the runs from @runs to @end, which may need any of the rare cases.
 */
static noinline void unpin_others(const struct bio_vec *runs, const struct bio_vec *end, bool dirty,
				  int nid, long released, struct folio *folio)
{
	if (folio)
		__folio_put(folio);
	for (; runs != end; runs++) {
		long pages = run_pages(runs);

		folio = page_folio(runs->bv_page);
		if (is_zero_folio(folio))
			continue;
		if (folio_nid(folio) != nid) {
			mod_node_page_state(NODE_DATA(nid), NR_FOLL_PIN_RELEASED, released);
			nid = folio_nid(folio);
			released = 0;
		}
		released += pages;
		if (dirty && !folio_test_dirty(folio))
			folio_mark_dirty(folio);
		if (unpin_and_test(folio, folio_test_large(folio), pages))
			__folio_put(folio);
	}
	mod_node_page_state(NODE_DATA(nid), NR_FOLL_PIN_RELEASED, released);
}

/*
 * Releases the pins of @runs, each of which is within one folio, as unpin_user_folio() would run by
 * run. But this calls mod_node_page_state(), which is a third of the cost of a page, only once for
 * consecutive runs of the same node. It is in C because all but the loop is inline functions. The
 * loop makes no call, so it needs no stack frame.
 *
 * @count: number of runs, not zero
 * @dirty: see pin_guard_unpin_dirty()
 */
static __always_inline void unpin(const struct bio_vec *runs, size_t count, bool dirty)
{
	const struct bio_vec *end = runs + count;
	const struct page *zero = ZERO_PAGE(0);
	/* What the flags of a folio must have for the fast path: the first one's node, and dirty. */
	unsigned long mask = NODES_MASK << NODES_PGSHIFT | (dirty ? BIT(PG_dirty) : 0);
	unsigned long want = (READ_ONCE(runs->bv_page->flags.f) | BIT(PG_dirty)) & mask;
	long released = 0;

	BUILD_BUG_ON(NODES_WIDTH < NODES_SHIFT);	/* the node is in the flags */
	do {
		struct page *page = runs->bv_page;
		struct folio *folio = PageTail(page) ? page_folio(page) : (struct folio *)page;
		unsigned long flags = READ_ONCE(folio->flags.f);
		long pages;

		if (unlikely(page == zero || (flags & mask) != want)) {
			unpin_others(runs, end, dirty, want >> NODES_PGSHIFT, released, NULL);
			return;
		}
		pages = run_pages(runs++);
		released += pages;
		if (unlikely(unpin_and_test(folio, flags & BIT(PG_head), pages))) {
			unpin_others(runs, end, dirty, want >> NODES_PGSHIFT, released, folio);
			return;
		}
	} while (runs != end);
	mod_node_page_state(NODE_DATA(want >> NODES_PGSHIFT), NR_FOLL_PIN_RELEASED, released);
}

void pin_guard_unpin(const struct bio_vec *runs, size_t count)
{
	unpin(runs, count, false);
}
/* The drop of a guard calls this, and may be compiled into a driver. */
EXPORT_SYMBOL_GPL(pin_guard_unpin);

/* Dirties the folios first. They must be such that this needs no folio lock. */
void pin_guard_unpin_dirty(const struct bio_vec *runs, size_t count)
{
	unpin(runs, count, true);
}
EXPORT_SYMBOL_GPL(pin_guard_unpin_dirty);

/* Each processor has its own: all of them would write to one cache line on every send. */
static DEFINE_PER_CPU(long[PIN_GUARD_COUNTERS], pin_guard_counters);

void pin_guard_counter_add(unsigned int counter, long n)
{
	this_cpu_add(pin_guard_counters[counter], n);
}

long pin_guard_counter_sum(unsigned int counter)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu(pin_guard_counters, cpu)[counter]);
	return sum;
}

/*
 * What in_use.rs works with: a percpu_ref, dead or alive, and the work that looks after it.
 */

static struct percpu_ref in_use;

static void look(struct work_struct *work)
{
	pin_guard_in_use_look();
}
static DECLARE_DELAYED_WORK(in_use_work, look);

int pin_guard_in_use_init(percpu_ref_func_t *release)
{
	return percpu_ref_init(&in_use, release, PERCPU_REF_INIT_DEAD | PERCPU_REF_ALLOW_REINIT,
			       GFP_KERNEL);
}

void pin_guard_in_use_exit(void)
{
	cancel_delayed_work_sync(&in_use_work);
	percpu_ref_exit(&in_use);
}

/* False if it is dead. */
notrace bool pin_guard_in_use_tryget(void)
{
	return percpu_ref_tryget_live(&in_use);
}

void pin_guard_in_use_get(void)
{
	percpu_ref_get(&in_use);
}

void pin_guard_in_use_put(void)
{
	percpu_ref_put(&in_use);
}

/* False if somebody still has a reference from its last life. */
bool pin_guard_in_use_revive(void)
{
	if (!percpu_ref_is_zero(&in_use))
		return false;
	percpu_ref_reinit(&in_use);
	return true;
}

void pin_guard_in_use_kill(void)
{
	percpu_ref_kill(&in_use);
}

void pin_guard_in_use_watch(unsigned long jiffies)
{
	schedule_delayed_work(&in_use_work, jiffies);
}

u16 pin_guard_sk_family(const struct sock *sk)
{
	return sk->sk_family;
}

u16 pin_guard_sk_protocol(const struct sock *sk)
{
	return sk->sk_protocol;
}

bool pin_guard_sock_support_zc(const struct socket *sock)
{
	return test_bit(SOCK_SUPPORT_ZC, &sock->flags);
}

/*
 * Returns true if the connection probes, or if the sysctl allows it to begin when it detects an
 * ICMP black hole.
 */
bool pin_guard_tcp_mtu_probing(const struct sock *sk)
{
	return inet_csk(sk)->icsk_mtup.enabled ||
	       READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_mtu_probing);
}

bool pin_guard_udp_corked(const struct sock *sk)
{
	return udp_test_bit(CORK, sk) || READ_ONCE(udp_sk(sk)->pending);
}

void pin_guard_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void pin_guard_sock_put(struct sock *sk)
{
	sock_put(sk);
}

const struct bio_vec *pin_guard_iter_bvec(const struct iov_iter *iter)
{
	return iter->bvec;
}

void pin_guard_folio_get(struct folio *folio)
{
	folio_get(folio);
}

struct skb_shared_info *pin_guard_skb_shinfo(const struct sk_buff *skb)
{
	return skb_shinfo(skb);
}

struct ubuf_info *pin_guard_skb_zcopy(struct sk_buff *skb)
{
	return skb_zcopy(skb);
}

#if IS_BUILTIN(CONFIG_KUNIT)
void pin_guard_mmap_write_lock(struct mm_struct *mm)
{
	mmap_write_lock(mm);
}

void pin_guard_mmap_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}

void pin_guard_skb_zcopy_set(struct sk_buff *skb, struct ubuf_info *ubuf)
{
	skb_zcopy_set(skb, ubuf, NULL);
}
#endif

/*
 * The stand-ins. ftrace sends a call of the stand-in pin_guard_NAME() into NAME(), behind the
 * ftrace call site of NAME() (see hook/redirect.rs). The body of a stand-in runs only if ftrace
 * fails to do so. It then emits a warning, and returns a value that loses no data.
 */

noinline int pin_guard_copy_page_range(struct vm_area_struct *dst_vma,
				       struct vm_area_struct *src_vma)
{
	barrier_data(dst_vma);
	WARN_ON_ONCE(1);
	return -ENOMEM;
}

noinline unsigned long pin_guard_move_page_tables(void *pmc)
{
	barrier_data(pmc);
	WARN_ON_ONCE(1);
	return 0;
}

noinline long pin_guard_userfaultfd_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	barrier_data(file);
	WARN_ON_ONCE(1);
	return -EIO;
}

noinline bool pin_guard_swap_cache_has_folio(swp_entry_t entry)
{
	WARN_ON_ONCE(1);
	return true;
}

/* The bodies of these two differ, because the compiler may merge functions that are equal. */

noinline ssize_t pin_guard_nfs_file_read(struct kiocb *iocb, struct iov_iter *to)
{
	barrier_data(iocb);
	WARN_ON_ONCE(1);
	return -EIO;
}

noinline ssize_t pin_guard_ceph_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	barrier_data(to);
	WARN_ON_ONCE(1);
	return -EIO;
}
