// A preload for linux.uml on processors with a larger register state than the kernel of User Mode Linux knows.
//
// That kernel keeps 2,696 bytes of a process's extended state (up to AVX-512 and protection keys) and sets them with
// PTRACE_SETREGSET. The host refuses anything but the whole state with EFAULT, which on processors with AMX is larger, and
// the guest dies at its first program. Here such a call is completed: what the guest's kernel has, zeros for the rest,
// and the marks of the rest cleared. Programs of the guest cannot use the rest: AMX needs a permission that nobody asks for.
#define _GNU_SOURCE
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	MAX_STATE = 64 << 10,
	HEADER = 512,    // offset of the XSAVE header, whose first 8 bytes mark the components present
	AMX_CONFIG = 17, // the first component beyond what that kernel knows
};

// state_size is the size of the host's whole state for user programs: CPUID leaf 0xd, sub-leaf 0, EBX.
static size_t state_size(void)
{
	unsigned a, b, c, d;
	if (!__get_cpuid_count(0xd, 0, &a, &b, &c, &d) || b > MAX_STATE)
		return 0;
	return b;
}

static long set_state(pid_t pid, const struct iovec *v)
{
	static __thread uint8_t whole[MAX_STATE] __attribute__((aligned(64)));
	size_t size = state_size();
	if (v->iov_len >= size || v->iov_len < HEADER + sizeof(uint64_t))
		return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, v);
	memcpy(whole, v->iov_base, v->iov_len);
	memset(whole + v->iov_len, 0, size - v->iov_len);
	uint64_t present;
	memcpy(&present, whole + HEADER, sizeof present);
	present &= ((uint64_t)1 << AMX_CONFIG) - 1;
	memcpy(whole + HEADER, &present, sizeof present);
	struct iovec all = { whole, size };
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

// ptrace takes the place of libc's.
long ptrace(enum __ptrace_request request, ...)
{
	va_list args;
	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *), *data = va_arg(args, void *);
	va_end(args);
	switch ((int)request) {
	case PTRACE_SETREGSET:
		if ((uintptr_t)addr == NT_X86_XSTATE)
			return set_state(pid, data);
		break;
	case PTRACE_PEEKTEXT:
	case PTRACE_PEEKDATA:
	case PTRACE_PEEKUSER: { // the system call stores the word, the library returns it
		long word;
		if (syscall(SYS_ptrace, request, pid, addr, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
