/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* How x86-64 enters a program and the kernel (System V ABI, A.2). */

static inline long call(long number, long a, long b, long c, long d, long e)
{
	register long fourth asm("r10") = d;
	register long fifth asm("r8") = e;
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
		     : "rcx", "r11", "memory");
	return result;
}

static inline long fork_process(void)
{
	return call(__NR_fork, 0, 0, 0, 0, 0);
}

asm(".globl _start\n"
    "_start:\n"
    "	xor %ebp, %ebp\n"
    "	mov %rsp, %rdi\n"
    "	and $-16, %rsp\n"
    "	call begin\n");
