/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PIN_GUARD_HELPERS_H
#define _PIN_GUARD_HELPERS_H

#include <linux/interval_tree.h>
#include <linux/mm_types.h>
#include <linux/percpu-refcount.h>
#include <linux/types.h>

struct bio_vec;
struct file;
struct folio;
struct ftrace_ops;
struct ftrace_regs;
struct iov_iter;
struct kiocb;
struct kmem_cache;
struct module;
struct sk_buff;
struct skb_shared_info;
struct sock;
struct socket;
struct ubuf_info;

unsigned long pin_guard_ftrace_regs_get_argument0(struct ftrace_regs *fregs);
unsigned long pin_guard_ftrace_regs_get_argument1(struct ftrace_regs *fregs);
unsigned long pin_guard_ftrace_regs_get_argument(struct ftrace_regs *fregs, unsigned int n);
void pin_guard_ftrace_regs_set_instruction_pointer(struct ftrace_regs *fregs, unsigned long ip);

/* The first MmWindows of each hash chain. window/mm.rs repeats the number. */
#define PIN_GUARD_CHAIN_BITS	8
extern void *pin_guard_chain[1 << PIN_GUARD_CHAIN_BITS];
unsigned long pin_guard_chain_of(const struct mm_struct *mm);

void pin_guard_copy_page_range_enter(unsigned long ip, unsigned long parent_ip,
				     struct ftrace_ops *ops, struct ftrace_regs *fregs);
/* hook/fork.rs */
void pin_guard_copy_page_range_look(unsigned long ip, unsigned long parent_ip,
				    struct ftrace_ops *ops, struct ftrace_regs *fregs);

void *pin_guard_kmem_cache_alloc(struct kmem_cache *cache, gfp_t flags);

int pin_guard_lookup(const char *name, unsigned long *addr);
bool pin_guard_within_module(unsigned long addr, const struct module *module);

extern const int pin_guard_IOCB_NOWAIT;
extern const unsigned int pin_guard_UFFDIO_MOVE;

struct mm_struct *pin_guard_userfaultfd_mm(const struct file *file);
bool pin_guard_userfaultfd_rwp(struct vm_area_struct *vma);
unsigned long pin_guard_vm_access_clear(struct vm_area_struct *vma);
void pin_guard_vm_flags_set(struct vm_area_struct *vma, unsigned long flags);

/* interval.c */
void pin_guard_interval_insert(struct interval_tree_node *node, struct rb_root_cached *root);
void pin_guard_interval_remove(struct interval_tree_node *node, struct rb_root_cached *root);
struct interval_tree_node *
pin_guard_interval_subtree_search(struct interval_tree_node *node, unsigned long start,
				  unsigned long last);
struct interval_tree_node *pin_guard_interval_iter_first(struct rb_root_cached *root,
							 unsigned long start, unsigned long last);
struct interval_tree_node *pin_guard_interval_iter_next(struct interval_tree_node *node,
							unsigned long start, unsigned long last);

/* mremap.c */
struct mm_struct *pin_guard_what_moves(const void *pmc, unsigned long *start, unsigned long *end,
				       unsigned long *to);

/* page_table.c; hook/present.rs repeats the values. */
enum pin_guard_entry {
	PIN_GUARD_ABSENT,
	PIN_GUARD_PRESENT,	/* a page to which a device may be writing */
	PIN_GUARD_SHARED,	/* an anonymous page that is not exclusive to the mm */
	PIN_GUARD_SWAP,
	PIN_GUARD_ELSEWHERE,	/* under migration, or exclusive to a device */
	PIN_GUARD_OUT_OF_REACH,	/* present, but GUP would look for it for ever */
};
unsigned long pin_guard_entry(struct vm_area_struct *vma, unsigned long addr, int *kind,
			      unsigned long *swap);

bool pin_guard_user_backed_iter(const struct iov_iter *iter);
void __user *pin_guard_iter_iov_addr(const struct iov_iter *iter);
size_t pin_guard_iter_iov_len(const struct iov_iter *iter);

unsigned long pin_guard_untagged_addr(unsigned long addr);
bool pin_guard_mmap_lock_speculate_try_begin(struct mm_struct *mm, unsigned int *seq);
int pin_guard_mmap_read_lock_killable(struct mm_struct *mm);

struct folio *pin_guard_page_folio(struct page *page);
struct page *pin_guard_folio_end(struct folio *folio);
void pin_guard_unpin(const struct bio_vec *runs, size_t count);
void pin_guard_unpin_dirty(const struct bio_vec *runs, size_t count);

/* Counter in counters.rs. */
#define PIN_GUARD_COUNTERS 4

void pin_guard_counter_add(unsigned int counter, long n);
long pin_guard_counter_sum(unsigned int counter);

/* in_use.rs */
int pin_guard_in_use_init(percpu_ref_func_t *release);
void pin_guard_in_use_exit(void);
bool pin_guard_in_use_tryget(void);
void pin_guard_in_use_get(void);
void pin_guard_in_use_put(void);
bool pin_guard_in_use_revive(void);
void pin_guard_in_use_kill(void);
void pin_guard_in_use_watch(unsigned long jiffies);
void pin_guard_in_use_look(void);

u16 pin_guard_sk_family(const struct sock *sk);
u16 pin_guard_sk_protocol(const struct sock *sk);
bool pin_guard_sock_support_zc(const struct socket *sock);
bool pin_guard_tcp_mtu_probing(const struct sock *sk);
bool pin_guard_udp_corked(const struct sock *sk);
void pin_guard_sock_hold(struct sock *sk);
void pin_guard_sock_put(struct sock *sk);
const struct bio_vec *pin_guard_iter_bvec(const struct iov_iter *iter);
void pin_guard_folio_get(struct folio *folio);
struct skb_shared_info *pin_guard_skb_shinfo(const struct sk_buff *skb);
struct ubuf_info *pin_guard_skb_zcopy(struct sk_buff *skb);

/* For the KUnit tests. */
void pin_guard_mmap_write_lock(struct mm_struct *mm);
void pin_guard_mmap_write_unlock(struct mm_struct *mm);
void pin_guard_skb_zcopy_set(struct sk_buff *skb, struct ubuf_info *ubuf);

int pin_guard_copy_page_range(struct vm_area_struct *dst_vma, struct vm_area_struct *src_vma);
unsigned long pin_guard_move_page_tables(void *pmc);
long pin_guard_userfaultfd_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
bool pin_guard_swap_cache_has_folio(swp_entry_t entry);
ssize_t pin_guard_nfs_file_read(struct kiocb *iocb, struct iov_iter *to);
ssize_t pin_guard_ceph_read_iter(struct kiocb *iocb, struct iov_iter *to);

/* events.c */
void pin_guard_trace_window_open(const void *mm, unsigned long start, unsigned long end);
void pin_guard_trace_window_close(const void *mm, unsigned long start, unsigned long end,
				  unsigned long opened);
void pin_guard_trace_fork(unsigned long start, unsigned long end, unsigned long pages, u64 ns);

#endif /* _PIN_GUARD_HELPERS_H */
