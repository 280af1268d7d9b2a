// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The first and only process of the guest that `nfdrop-ci prove` boots: mounts, loads modules, runs the
 * program that the kernel's command line names behind `--`, says how it ended, and switches the guest off.
 *
 * It stands alone, without a C library, so that nothing in the guest depends on the machine that made it but
 * the programs that are put there. What it needs of an architecture is in guest/<architecture>.h.
 *
 * It writes to the second serial port, whose lines ci/src/prove/guest.rs reads; where the kernel has one
 * port only, to that one.
 */
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/reboot.h>
#include <asm/unistd.h>

#if defined(__x86_64__)
#include "x86_64.h"
#endif

#define O_READ 0
#define O_READ_WRITE 2
#define O_NO_TERMINAL 0400
#define MAX_ARGUMENTS 64

static char *const ENVIRONMENT[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=/usr/lib/nfdrop",
				     "HOME=/", "LC_ALL=C", 0 };

static long out = 1;

static unsigned long length(const char *text)
{
	unsigned long length = 0;

	while (text[length])
		length++;
	return length;
}

static void say(const char *text)
{
	call(__NR_write, out, (long)text, length(text), 0, 0);
}

static void say_number(long number)
{
	char digits[24];
	char *at = digits + sizeof(digits);
	long rest = number < 0 ? -number : number;

	*--at = 0;
	do
		*--at = '0' + rest % 10;
	while (rest /= 10);
	if (number < 0)
		*--at = '-';
	say(at);
}

static void mount_at(const char *type, const char *place)
{
	call(__NR_mkdirat, AT_FDCWD, (long)place, 0755, 0, 0);
	call(__NR_mount, (long)type, (long)place, (long)type, 0, 0);
}

/* Opens the port that is there, as stdin, stdout and stderr. */
static void open_port(void)
{
	static const char *const ports[] = { "/dev/ttyS1", "/dev/ttyS0", "/dev/console" };
	int port;

	for (port = 0; port < 3; port++) {
		long fd = call(__NR_openat, AT_FDCWD, (long)ports[port], O_READ_WRITE | O_NO_TERMINAL, 0, 0);
		/* A port without hardware behind it can be opened, and fails at the first write. */
		if (fd < 0 || call(__NR_write, fd, (long)"\n", 1, 0, 0) != 1)
			continue;
		call(__NR_dup3, fd, 0, 0, 0, 0);
		call(__NR_dup3, fd, 1, 0, 0, 0);
		call(__NR_dup3, fd, 2, 0, 0, 0);
		return;
	}
}

/* /modules/00 to /modules/99, as long as there are some. */
static void load_modules(void)
{
	char path[] = "/modules/00";
	int number;

	for (number = 0; number < 100; number++) {
		long fd, error;

		path[9] = '0' + number / 10;
		path[10] = '0' + number % 10;
		fd = call(__NR_openat, AT_FDCWD, (long)path, O_READ, 0, 0);
		if (fd < 0)
			return;
		error = call(__NR_finit_module, fd, (long)"", 0, 0, 0);
		call(__NR_close, fd, 0, 0, 0, 0);
		if (error) {
			say("=== module ");
			say_number(number);
			say(" ");
			say_number(-error);
			say("\n");
		}
	}
}

static void run(char *const arguments[])
{
	int status = 0;
	long child;

	if (!arguments[0]) {
		say("=== ended 127\n");
		return;
	}
	child = fork_process();
	if (child == 0) {
		long error = call(__NR_execve, (long)arguments[0], (long)arguments, (long)ENVIRONMENT, 0, 0);

		say("error: the guest cannot run its program: ");
		say_number(error);
		say("\n");
		call(__NR_exit_group, 127, 0, 0, 0, 0);
	}
	/* Processes that lost theirs become children of this one. */
	while (call(__NR_wait4, -1, (long)&status, 0, 0, 0) != child)
		;
	say("\n=== ended ");
	say_number(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
	say("\n");
}

/* `stack`: as the kernel leaves it, the number of arguments, the arguments and a null. */
__attribute__((used, noreturn)) void begin(long *stack)
{
	char **given = (char **)(stack + 1);
	static char *arguments[MAX_ARGUMENTS + 1];
	long count;

	/* The first one is this program's own name. */
	for (count = 0; count + 1 < stack[0] && count < MAX_ARGUMENTS; count++)
		arguments[count] = given[count + 1];
	mount_at("devtmpfs", "/dev");
	open_port();
	say("=== started\n");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	mount_at("tmpfs", "/tmp");
	mount_at("debugfs", "/sys/kernel/debug");
	mount_at("tracefs", "/sys/kernel/tracing");
	load_modules();
	run(arguments);
	call(__NR_sync, 0, 0, 0, 0, 0);
	for (;;)
		call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
}
