/*
 * The ports of a public mesh (port.go): two workers, one edge between them, a sender that parks when
 * the edge is full, a receiver that takes messages only while it is awake. Both sleep when they find
 * nothing to do. Memory is sequentially consistent: all of it goes through Go's atomics, and what the
 * doorbell's fences are for is doorbell.pml's matter. So a wake here is: set the port's bell, set
 * the worker's mail, then claim its sleep.
 *
 * What is checked.
 *   No lost wake: both workers end, the receiver after all messages, or the end state is invalid.
 *   The edge never holds more than its places, and the count of what is free is never wrong.
 *   No livelock: a cycle without progress would be found (pan -l).
 *
 * Each of BREAK_ROOM_RECHECK (a sender parks without looking at the count again), BREAK_MAIL_ORDER (mail is
 * taken back after the look at the bells), BREAK_BELL_ORDER (a bell after the look at the edge),
 * BREAK_WAITING_ORDER (the receiver looks for a waiting sender before it gives the places back) and
 * BREAK_SLEEP_RECHECK must make the check fail (tests/model/run.sh).
 */

#ifndef MESSAGES
#define MESSAGES 7
#endif
#ifndef PLACES
#define PLACES 2
#endif
#ifndef RUN
#define RUN 1 /* messages that are taken before their places are given back */
#endif

#define S 0 /* the sending worker */
#define R 1 /* the receiving one */

byte published;	   /* the edge's tail */
byte consumed;	   /* link.consumed */
byte waiting;	   /* link.waiting: 0, or the count that is waited for, plus 1 */
bool bell[2];	   /* portBell.set */
bool mail[2];	   /* worker.mail */
bool sleeping[2];  /* doorbell.sleeping */
bool rung[2];	   /* the eventfd */
bool all_sent;	   /* so that the sender's worker may end */

#define RING(to)                                                                                   \
	bell[to] = true;                                                                           \
	mail[to] = true;                                                                           \
	if                                                                                         \
	:: atomic { sleeping[to] -> sleeping[to] = false; rung[to] = true }                        \
	:: else -> skip                                                                            \
	fi

/* worker.cross, with nothing to do: the last look and the wait. The bell is this worker's alone to see. */
#ifdef BREAK_SLEEP_RECHECK
#define CALLED(me) false
#else
#define CALLED(me) mail[me]
#endif
#define SLEEP(me)                                                                                  \
	sleeping[me] = true;                                                                       \
	if                                                                                         \
	:: CALLED(me) -> skip                                                                      \
	:: else -> atomic { rung[me] -> rung[me] = false }                                         \
	fi;                                                                                        \
	sleeping[me] = false

/* drainPorts and drain: heard says whether the port was told of something. */
#ifdef BREAK_MAIL_ORDER
#define DRAIN(me)                                                                                  \
	heard = false;                                                                             \
	if                                                                                         \
	:: mail[me] ->                                                                             \
		atomic { heard = bell[me]; bell[me] = false };                                     \
		mail[me] = false                                                                   \
	:: else -> skip                                                                            \
	fi
#else
#define DRAIN(me)                                                                                  \
	heard = false;                                                                             \
	if                                                                                         \
	:: mail[me] ->                                                                             \
		mail[me] = false;                                                                  \
		atomic { heard = bell[me]; bell[me] = false }                                      \
	:: else -> skip                                                                            \
	fi
#endif

proctype sender()
{
	byte sent = 0;
	byte free = PLACES;
	byte seen;
	bool parked = false;
	bool heard;

	do
	:: sent == MESSAGES && !parked -> break
	:: sent < MESSAGES && !parked && free > 0 ->
		/* add and publish */
		free--;
		sent++;
		atomic { published++; assert(published - consumed <= PLACES) };
		RING(R);
progress_sent:	skip
	:: sent < MESSAGES && !parked && free == 0 ->
		/* room */
		seen = consumed;
		free = PLACES - (sent - seen);
		if
		:: free > 0 -> skip
		:: else ->
			/* awaitRoom */
			waiting = sent - PLACES / 2 + 1;
#ifdef BREAK_ROOM_RECHECK
			parked = true
#else
			seen = consumed;
			if
			:: seen >= sent - PLACES / 2 -> waiting = 0
			:: else -> parked = true
			fi
#endif
		fi
	:: parked ->
		DRAIN(S);
		if
		:: heard && waiting == 0 -> parked = false
		:: else -> SLEEP(S)
		fi
	od;
	all_sent = true
}

proctype receiver()
{
	byte head = 0;
	byte taken = 0; /* of them, places not given back */
	byte tail, asked;
	bool heard;

	do
	:: head == MESSAGES -> break
	:: else ->
#ifdef BREAK_BELL_ORDER
		tail = published;
		DRAIN(R);
#else
		DRAIN(R);
		tail = published;
#endif
		if
		:: heard && head < tail ->
			do
			:: head < tail ->
				head++;
				taken++;
				if
				:: taken == RUN || head == tail ->
#ifdef BREAK_WAITING_ORDER
					asked = waiting;
					consumed = consumed + taken;
#else
					consumed = consumed + taken;
					asked = waiting;
#endif
					taken = 0;
					if
					:: asked > 0 && consumed >= asked - 1 ->
						if
						:: atomic { waiting == asked -> waiting = 0 };
							RING(S)
						:: else -> skip
						fi
					:: else -> skip
					fi
				:: else -> skip
				fi
			:: else -> break
			od;
progress_taken:		skip
		:: else -> SLEEP(R)
		fi
	od
}

init {
	atomic {
		run sender();
		run receiver()
	}
}
