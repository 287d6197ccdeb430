/*
 * The wake protocol of include/veloq/doorbell.h: PRODUCERS wakers, one worker, total store order.
 *
 * Memory. Every store goes to the storing process's own FIFO buffer first and reaches memory at
 * some later time (the process `memory` decides when); loads read memory. That is x86, and it
 * holds the one reordering that the protocol is about on every machine: a load overtaking an
 * earlier store of the same thread. A fence waits until the own buffer is empty; an exchange does
 * too, and is atomic. No process loads a variable that it stores with a plain store, so nothing
 * needs forwarding from the buffer. The eventfd and the I/O of the worker are system calls, and
 * touch the kernel's state directly.
 *
 * What is checked.
 *   No lost wake: a worker that waits for ever with a message published is an invalid end state,
 *   since it ends only after consuming all messages.
 *   Rings are bounded: one prepare and one publication each account for one ring at most, so a
 *   ring for a worker that is awake is a leftover of a claim, never a stream.
 *   No livelock: every cycle of the model would have to pass the progress label (pan -l).
 *
 * BREAK_WORKER_FENCE, BREAK_WAKER_FENCE and BREAK_RECHECK each leave one step out; BREAK_CLAIM
 * replaces the exchange by a store, which may land after the next prepare and undo it. Every one
 * of them must make the check fail (tests/model/run.sh).
 */

#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2 /* by each producer */
#endif
#ifndef IO_WAKES
#define IO_WAKES 1 /* waits that end for another reason than a ring */
#endif
#define WORKER PRODUCERS
#define DEPTH  3 /* entries of a store buffer */

#define SLEEPING PRODUCERS /* the flag's address; the tails' are 0 .. PRODUCERS-1 */

byte mem[PRODUCERS + 1];
chan buffer[PRODUCERS + 1] = [DEPTH] of { byte, byte };

/* The kernel. */
byte eventfd;
byte io;

/* Ghosts: steps counted, read by assertions only. */
byte prepared;
byte published;
byte rung;

#define STORE(who, addr, val) buffer[who]!addr, val
#define FENCE(who)	      empty(buffer[who])

proctype producer(byte me)
{
	byte seq = 0;
	bool claimed = false;

	do
	:: seq < MESSAGES ->
		seq++;
		/* vq_edge_push */
		atomic {
			STORE(me, me, seq);
			published++
		}
		/* vq_doorbell_claim */
#ifndef BREAK_WAKER_FENCE
		FENCE(me);
#endif
		if
		:: mem[SLEEPING] == 0 -> skip
		:: mem[SLEEPING] == 1 ->
#ifdef BREAK_CLAIM
			STORE(me, SLEEPING, 0);
			claimed = true;
#else
			/* a locked instruction: the buffer drains, then load and store at once */
			atomic {
				FENCE(me) ->
				claimed = (mem[SLEEPING] == 1);
				mem[SLEEPING] = 0
			}
#endif
			if
			:: claimed ->
				/* vq_doorbell_ring; the claim may be long past by now */
				atomic {
					claimed = false;
					eventfd++;
					rung++;
					assert(rung <= prepared);
					assert(rung <= published)
				}
			:: else -> skip
			fi
		fi
	:: else -> break
	od
}

/* The tails that the worker loads, one after the other; the sum tells whether it found anything. */
#define CONSUME                                                                                    \
	found = 0;                                                                                 \
	i = 0;                                                                                     \
	do                                                                                         \
	:: i < PRODUCERS ->                                                                        \
		atomic {                                                                           \
			tail = mem[i];                                                             \
			assert(tail >= head[i]);                                                   \
			found = found + tail - head[i];                                            \
			head[i] = tail;                                                            \
			tail = 0;                                                                  \
			i++                                                                        \
		}                                                                                  \
	:: else -> break                                                                           \
	od;                                                                                        \
	total = total + found

proctype worker()
{
	byte head[PRODUCERS];
	byte i, tail, found, total;

	do
	:: total == PRODUCERS * MESSAGES -> break
	:: total < PRODUCERS * MESSAGES ->
		CONSUME;
		if
		:: found > 0 ->
progress:		skip
		:: found == 0 ->
			/* vq_doorbell_prepare */
			atomic {
				STORE(WORKER, SLEEPING, 1);
				prepared++
			}
#ifndef BREAK_WORKER_FENCE
			FENCE(WORKER);
#endif
#ifndef BREAK_RECHECK
			CONSUME;
#endif
			if
			:: found > 0 -> skip
			:: found == 0 ->
				/* the driver's wait, and the drain */
				if
				:: atomic { eventfd > 0 -> eventfd = 0 }
				:: atomic { io > 0 -> io-- }
				fi
			fi;
			/* vq_doorbell_awake */
			STORE(WORKER, SLEEPING, 0)
		fi
	od
}

/* Moves the oldest store of some process to memory, at any time. */
proctype memory()
{
	byte addr, val;

end:	do
	:: atomic { buffer[0]?addr, val -> mem[addr] = val; addr = 0; val = 0 }
	:: atomic { buffer[1]?addr, val -> mem[addr] = val; addr = 0; val = 0 }
	:: atomic { buffer[WORKER]?addr, val -> mem[addr] = val; addr = 0; val = 0 }
	od
}

/* Ends a wait of the worker now and then, as a completion does. */
proctype kernel()
{
	byte n = 0;

end:	do
	:: n < IO_WAKES -> atomic { n++; io++ }
	:: n < IO_WAKES -> n = IO_WAKES
	:: else -> break
	od
}

init {
	atomic {
		run memory();
		run worker();
		run producer(0);
		run producer(1);
		run kernel()
	}
}
