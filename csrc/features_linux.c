/* features_linux.c: what Linux's sockets can do, tried out: include/veloq/features.h. */
#define _GNU_SOURCE
#include "veloq/features.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t found;

static bool takes(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

/* Whether a socket of that kind can be made, and takes the option. */
static bool tried(int family, int type, int level, int name, int value)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && (name < 0 || takes(fd, level, name, value));

	if (fd >= 0)
		close(fd);
	return ok;
}

static void try_all(void)
{
	static const struct {
		uint32_t feature;
		int family;
		int type;
		int level;
		int name; /* -1: the socket alone */
		int value;
	} table[] = {
		{ VQ_FEATURE_UNIX, AF_UNIX, SOCK_STREAM, 0, -1, 0 },
		{ VQ_FEATURE_UDP_SEGMENT, AF_INET, SOCK_DGRAM, IPPROTO_UDP, UDP_SEGMENT, 1200 },
		{ VQ_FEATURE_UDP_GRO, AF_INET, SOCK_DGRAM, IPPROTO_UDP, UDP_GRO, 1 },
		{ VQ_FEATURE_PACKET_INFO, AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_PKTINFO, 1 },
		{ VQ_FEATURE_ECN, AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_RECVTOS, 1 },
		{ VQ_FEATURE_KEEPALIVE_TIMES, AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_KEEPIDLE, 60 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (tried(table[i].family, table[i].type, table[i].level, table[i].name,
			  table[i].value))
			found |= table[i].feature;
}

uint32_t vq_features(uint32_t *known)
{
	*known = VQ_FEATURE_UNIX | VQ_FEATURE_UDP_SEGMENT | VQ_FEATURE_UDP_GRO |
		 VQ_FEATURE_PACKET_INFO | VQ_FEATURE_ECN | VQ_FEATURE_KEEPALIVE_TIMES;
	(void)pthread_once(&once, try_all);
	return found;
}
