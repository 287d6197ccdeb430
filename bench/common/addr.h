/* host:port parsing for loopback addresses: these programs are for one machine only. */
#ifndef VELOQ_BENCH_ADDR_H
#define VELOQ_BENCH_ADDR_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

/* Returns 0, or -1 unless text is an IPv4 loopback address and a port. */
static inline int addr_parse(const char *text, struct sockaddr_in *out)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	char *end;
	long port;

	if (!colon || (size_t)(colon - text) >= sizeof(host))
		return -1;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	port = strtol(colon + 1, &end, 10);
	if (*end || end == colon + 1 || port < 0 || port > 65535)
		return -1;
	memset(out, 0, sizeof(*out));
	out->sin_family = AF_INET;
	out->sin_port = htons((uint16_t)port);
	if (!strcmp(host, "localhost"))
		strcpy(host, "127.0.0.1");
	if (inet_pton(AF_INET, host, &out->sin_addr) != 1)
		return -1;
	return (ntohl(out->sin_addr.s_addr) >> 24) == 127 ? 0 : -1;
}

#endif
