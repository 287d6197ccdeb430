/* What the load client's parts share: options, results, and helpers around the server process. */
#ifndef VELOQ_BENCH_LOAD_H
#define VELOQ_BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "hist.h"

struct options {
	struct sockaddr_in addr;
	unsigned conn_count;
	unsigned size_bytes;
	unsigned depth;
	double measure_s;
	double warmup_s;
	pid_t server_pid; /* 0: not known, its figures are left out */
	unsigned idle_count;
	bool verify;
};

struct result {
	uint64_t request_count;
	uint64_t measured_ns;
	uint64_t server_cpu_ns;
	uint64_t client_cpu_ns;
	uint64_t machine_busy_ns; /* all processes, to tell when others disturbed the run */
	uint64_t server_rss_bytes;
	unsigned server_thread_count;
	struct hist latency;
	char error[160]; /* empty: every connection answered to the end */
};

struct idle_result {
	uint64_t rss_before_bytes;
	uint64_t rss_idle_bytes;
	uint64_t rss_used_bytes; /* after one echo on every connection */
	unsigned answered_count;
	char error[160];
};

/* Set by SIGALRM, the bound on the whole run. */
extern volatile sig_atomic_t load_late;

/* The closed loop; loop.c. Returns 0, or -1 with result->error set. */
int loop_run(const struct options *o, struct result *r);

/* Idle connections and what they cost; idle.c. Returns 0, or -1 with result->error set. */
int idle_run(const struct options *o, struct idle_result *r);

/* A connected, blocking socket with TCP_NODELAY, or a negative errno; both waits bounded by 5 s. */
int net_connect(const struct sockaddr_in *addr);

/* CPU time of a process so far, dead threads and io_uring's kernel threads included; 0 if gone. */
uint64_t proc_cpu_ns(pid_t pid);

/* Resident memory and thread count of a process; false if gone. */
bool proc_status(pid_t pid, uint64_t *rss_bytes, unsigned *thread_count);

/* CPU time that all processes of the machine have used, to a tick of 10 ms; 0 if unknown. */
uint64_t machine_busy_ns(void);

uint64_t clock_now_ns(void);

#endif
