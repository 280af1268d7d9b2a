/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The registers of x86-64 at a probe, by the number that plans' locations come with: that of the encoding. */

#define REGISTER(number, name)                                                                     \
	case number:                                                                               \
		/* A plain load would be merged with its neighbours into one of a computed place   \
		 * in the context, which the verifier refuses. */                                   \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                                              \
			     : "=r"(value)                                                         \
			     : "r"(ctx), "i"(__builtin_offsetof(struct pt_regs, name)));           \
		break

static __always_inline __u64 reg(struct pt_regs *ctx, __u32 number)
{
	__u64 value = 0;

	switch (number) {
		REGISTER(0, rax);
		REGISTER(1, rcx);
		REGISTER(2, rdx);
		REGISTER(3, rbx);
		REGISTER(4, rsp);
		REGISTER(5, rbp);
		REGISTER(6, rsi);
		REGISTER(7, rdi);
		REGISTER(8, r8);
		REGISTER(9, r9);
		REGISTER(10, r10);
		REGISTER(11, r11);
		REGISTER(12, r12);
		REGISTER(13, r13);
		REGISTER(14, r14);
		REGISTER(15, r15);
	}
	return value;
}
