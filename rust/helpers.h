/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PIN_GUARD_HELPERS_H
#define _PIN_GUARD_HELPERS_H

#include <linux/types.h>

struct bio_vec;
struct folio;
struct ftrace_regs;
struct iov_iter;
struct kiocb;
struct mm_struct;
struct page;
struct sk_buff;
struct skb_shared_info;
struct sock;
struct socket;
struct ubuf_info;
struct vm_area_struct;

unsigned long pin_guard_ftrace_regs_get_argument0(struct ftrace_regs *fregs);
unsigned long pin_guard_ftrace_regs_get_argument1(struct ftrace_regs *fregs);
unsigned long pin_guard_ftrace_regs_get_argument(struct ftrace_regs *fregs, unsigned int n);
void pin_guard_ftrace_regs_set_instruction_pointer(struct ftrace_regs *fregs, unsigned long ip);

extern const int pin_guard_IOCB_NOWAIT;

bool pin_guard_user_backed_iter(const struct iov_iter *iter);
void __user *pin_guard_iter_iov_addr(const struct iov_iter *iter);
size_t pin_guard_iter_iov_len(const struct iov_iter *iter);

unsigned long pin_guard_untagged_addr(unsigned long addr);
bool pin_guard_mmap_lock_speculate_try_begin(struct mm_struct *mm, unsigned int *seq);
int pin_guard_mmap_read_lock_killable(struct mm_struct *mm);

struct folio *pin_guard_page_folio(struct page *page);
struct page *pin_guard_folio_end(struct folio *folio);

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
ssize_t pin_guard_nfs_file_read(struct kiocb *iocb, struct iov_iter *to);
ssize_t pin_guard_ceph_read_iter(struct kiocb *iocb, struct iov_iter *to);

/* events.c */
void pin_guard_trace_window_open(const void *mm, unsigned long start, unsigned long end);
void pin_guard_trace_window_close(const void *mm, unsigned long start, unsigned long end,
				  u64 age_ns);
void pin_guard_trace_fork(unsigned long start, unsigned long end, unsigned long pages, u64 ns);

#endif /* _PIN_GUARD_HELPERS_H */
