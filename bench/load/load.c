/* The load client: options in, one JSON object out. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../common/addr.h"
#include "load.h"

#define WINDOW_BYTES_MAX (64u << 20)
#define CONN_COUNT_MAX   60000u
#define SECONDS_MAX      3600

volatile sig_atomic_t load_late;

static void on_alarm(int sig)
{
	(void)sig;
	load_late = 1;
}

static void usage(void)
{
	fputs("usage: load -a host:port [options]\n"
	      "  -c N    connections (64)\n"
	      "  -s N    bytes a request (64)\n"
	      "  -d N    requests in flight a connection (1)\n"
	      "  -t S    seconds measured (2)\n"
	      "  -w S    seconds of warm-up before that (0.5)\n"
	      "  -p PID  the server, for its CPU time, memory and threads\n"
	      "  -v      verify every echoed byte\n"
	      "  -i N    instead: open N idle connections, weigh them, then echo once on each\n"
	      "          (needs -p)\n"
	      "Loopback only. Prints one JSON object; exits 1 when a connection failed.\n",
	      stderr);
	exit(2);
}

static unsigned parse_count(const char *text, unsigned long max)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || v < 1 || v > max) {
		fprintf(stderr, "load: bad number %s (1 to %lu)\n", text, max);
		exit(2);
	}
	return (unsigned)v;
}

static double parse_seconds(const char *text)
{
	char *end;
	double v = strtod(text, &end);

	if (*end || end == text || !(v >= 0 && v <= SECONDS_MAX)) {
		fprintf(stderr, "load: bad time %s (0 to %d seconds)\n", text, SECONDS_MAX);
		exit(2);
	}
	return v;
}

static void parse(struct options *o, int argc, char **argv)
{
	bool has_addr = false;
	int c;

	*o = (struct options){
		.conn_count = 64, .size_bytes = 64, .depth = 1, .measure_s = 2, .warmup_s = 0.5
	};
	while ((c = getopt(argc, argv, "a:c:s:d:t:w:p:i:v")) != -1) {
		switch (c) {
		case 'a':
			has_addr = addr_parse(optarg, &o->addr) == 0;
			if (!has_addr) {
				fprintf(stderr, "load: %s is not a loopback host:port\n", optarg);
				exit(2);
			}
			break;
		case 'c':
			o->conn_count = parse_count(optarg, CONN_COUNT_MAX);
			break;
		case 's':
			o->size_bytes = parse_count(optarg, WINDOW_BYTES_MAX);
			break;
		case 'd':
			o->depth = parse_count(optarg, 65536);
			break;
		case 't':
			o->measure_s = parse_seconds(optarg);
			break;
		case 'w':
			o->warmup_s = parse_seconds(optarg);
			break;
		case 'p':
			o->server_pid = (pid_t)parse_count(optarg, 1u << 30);
			break;
		case 'i':
			o->idle_count = parse_count(optarg, CONN_COUNT_MAX);
			break;
		case 'v':
			o->verify = true;
			break;
		default:
			usage();
		}
	}
	if (!has_addr || optind != argc || (o->idle_count && !o->server_pid))
		usage();
	if ((uint64_t)o->size_bytes * o->depth > WINDOW_BYTES_MAX) {
		fprintf(stderr, "load: size times depth is over %u bytes\n", WINDOW_BYTES_MAX);
		exit(2);
	}
}

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

/* CPUs that neither server nor client used; a tick's rounding must not make it negative. */
static double others_share(const struct result *r, double seconds)
{
	double ns =
		(double)r->machine_busy_ns - (double)r->server_cpu_ns - (double)r->client_cpu_ns;

	return ns > 0 && seconds > 0 ? ns / 1e9 / seconds : 0;
}

static void print_loop(const struct options *o, const struct result *r)
{
	double s = (double)r->measured_ns / 1e9;
	double n = r->request_count ? (double)r->request_count : 1;

	printf("{\"connections\":%u,\"size_bytes\":%u,\"depth\":%u,\"verified\":%s", o->conn_count,
	       o->size_bytes, o->depth, o->verify ? "true" : "false");
	printf(",\"requests\":%llu,\"seconds\":%.6f,\"req_per_s\":%.1f",
	       (unsigned long long)r->request_count, s, s > 0 ? (double)r->request_count / s : 0.0);
	if (o->server_pid) {
		printf(",\"server_cpu_us_per_req\":%.4f,\"server_cpu_share\":%.4f",
		       us(r->server_cpu_ns) / n, s > 0 ? (double)r->server_cpu_ns / 1e9 / s : 0.0);
		printf(",\"server_rss_bytes\":%llu,\"server_threads\":%u",
		       (unsigned long long)r->server_rss_bytes, r->server_thread_count);
	}
	printf(",\"client_cpu_us_per_req\":%.4f,\"client_cpu_share\":%.4f",
	       us(r->client_cpu_ns) / n, s > 0 ? (double)r->client_cpu_ns / 1e9 / s : 0.0);
	if (o->server_pid)
		printf(",\"others_cpu_share\":%.3f", others_share(r, s));
	printf(",\"p50_us\":%.2f,\"p90_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f",
	       us(hist_quantile(&r->latency, 0.5)), us(hist_quantile(&r->latency, 0.9)),
	       us(hist_quantile(&r->latency, 0.99)), us(hist_quantile(&r->latency, 0.999)),
	       us(r->latency.max));
	printf(",\"errors\":%d}\n", r->error[0] ? 1 : 0);
}

static void print_idle(const struct options *o, const struct idle_result *r)
{
	double n = o->idle_count;

	printf("{\"idle_connections\":%u,\"answered\":%u", o->idle_count, r->answered_count);
	printf(",\"rss_before_bytes\":%llu,\"rss_idle_bytes\":%llu,\"rss_used_bytes\":%llu",
	       (unsigned long long)r->rss_before_bytes, (unsigned long long)r->rss_idle_bytes,
	       (unsigned long long)r->rss_used_bytes);
	printf(",\"idle_bytes_per_conn\":%.1f,\"used_bytes_per_conn\":%.1f",
	       ((double)r->rss_idle_bytes - (double)r->rss_before_bytes) / n,
	       ((double)r->rss_used_bytes - (double)r->rss_before_bytes) / n);
	printf(",\"errors\":%d}\n", r->error[0] ? 1 : 0);
}

int main(int argc, char **argv)
{
	static struct result loop;
	struct idle_result idle = { 0 };
	struct sigaction sa = { .sa_handler = on_alarm };
	struct options o;
	const char *error;

	parse(&o, argc, argv);
	/* No SA_RESTART: the alarm must break the wait in the kernel. */
	sigaction(SIGALRM, &sa, NULL);
	alarm(o.idle_count ? 120 : (unsigned)(o.measure_s + o.warmup_s) + 10);
	if (o.idle_count) {
		idle_run(&o, &idle);
		print_idle(&o, &idle);
		error = idle.error;
	} else {
		loop_run(&o, &loop);
		print_loop(&o, &loop);
		error = loop.error;
	}
	if (error[0])
		fprintf(stderr, "load: %s\n", error);
	return error[0] ? 1 : 0;
}
