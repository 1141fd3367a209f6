/* Exactly once outside `sync`: a slot's chain orders the pushes of clients,
 * each (client, sequence), while replicas are lost or join. Messages as in
 * sync.pml: a sender's log, or as much of it as it had when it took another
 * route, is what it has sent. */
#ifndef N
#define N 3 /* shards */
#endif
#ifndef MEMBERS
#define MEMBERS 3 /* of the first chain; the others are spares */
#endif
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef PUSHES
#define PUSHES 1 /* of each client */
#endif
#ifndef FAILS
#define FAILS 1 /* crash or are wrongly given up */
#endif
#ifndef JOINS
#define JOINS 0
#endif
#define NV (1 + FAILS + 2 * JOINS)
/* Room for what only faults apply. */
#define LOG (CLIENTS * PUSHES + 2)
#define NONE 15

#define CH(v, i) chain[(v) * 3 + (i)]
#define HEAD(v) CH(v, 0)
#define MEMBER(v, r) (CH(v, 0) == r || CH(v, 1) == r || CH(v, 2) == r)
#define TAIL(v) \
  (CH(v, 2) != NONE -> CH(v, 2) : (CH(v, 1) != NONE -> CH(v, 1) : CH(v, 0)))
#define PREVIOUS(v, r)                                                       \
  (CH(v, 1) == r                                                             \
       -> CH(v, 0)                                                           \
       : (CH(v, 2) == r -> CH(v, 1) : (joining[v] == r -> TAIL(v) : NONE)))
/* The tail waits for the joining one from when it has called it caught up. */
#ifdef BUG_JOINING_NOT_WAITED_FOR
#define WAITED_FOR(v) 0
#else
#define WAITED_FOR(v) caught_up[v]
#endif
#define NEXT(v, r)                                                           \
  (CH(v, 0) == r && CH(v, 1) != NONE                                         \
       -> CH(v, 1)                                                           \
       : (CH(v, 1) == r && CH(v, 2) != NONE                                  \
              -> CH(v, 2)                                                    \
              : (WAITED_FOR(v) && TAIL(v) == r -> joining[v] : NONE)))
#define HAS(mask, r) (((mask) >> (r)) & 1)
#define COMMAND(client, sequence) ((client) * 4 + (sequence))

byte chain[NV * 3] = NONE;
byte joining[NV] = NONE;
bit caught_up[NV];
byte current;
byte live, alive;

byte version[N];
byte length[N];            /* commands applied */
byte log[N * LOG];
byte last[N * CLIENTS];    /* sequence of each client */
byte below[N];             /* commands that the tail has, as it knows */
byte left_length[NV * N];  /* what it had when it left a version */
byte left_below[NV * N];
bit held[N];

byte acknowledged[CLIENTS]; /* pushes; the next one is under way */
byte asked[CLIENTS];        /* the versions under which that is sent */
byte client_version[CLIENTS];
byte fails, joins;
bit done;
byte i, j, k, x, seen;      /* of one step: 0 after it */

#define SENT(v, r) (version[r] == v -> length[r] : left_length[(v) * N + (r)])
#define SAID(v, r) (version[r] == v -> below[r] : left_below[(v) * N + (r)])

inline Apply(r, command) {
  assert(length[r] < LOG);
  log[r * LOG + length[r]] = command;
  last[r * CLIENTS + command / 4] = command % 4;
  length[r]++;
  if
  :: NEXT(version[r], r) == NONE -> below[r] = length[r]
  :: else
  fi
}

inline TakePush(r, a) {
  d_step {
    HAS(alive, r) && held[r] && HEAD(version[r]) == r && acknowledged[a] < PUSHES &&
        HAS(asked[a], version[r]) && length[r] < LOG &&
#ifdef BUG_REPEAT_APPLIED
        last[r * CLIENTS + a] <= acknowledged[a] + 1;
#else
        last[r * CLIENTS + a] == acknowledged[a];
#endif
    Apply(r, COMMAND(a, acknowledged[a] + 1))
  }
}

/* The next command of the one before, in order. */
inline TakeCommand(r, v) {
  d_step {
    HAS(alive, r) && held[r] && PREVIOUS(v, r) != NONE && length[r] < LOG &&
        length[r] < SENT(v, PREVIOUS(v, r));
    x = log[PREVIOUS(v, r) * LOG + length[r]];
    Apply(r, x);
    x = 0
  }
}

inline TakeAck(r) {
  d_step {
    HAS(alive, r) && held[r] && NEXT(version[r], r) != NONE &&
        SAID(version[r], NEXT(version[r], r)) > below[r];
    below[r] = SAID(version[r], NEXT(version[r], r))
  }
}

inline TakeRoute(r, v) {
  d_step {
    HAS(alive, r) && version[r] < v && v <= current;
    left_length[version[r] * N + r] = length[r];
    left_below[version[r] * N + r] = below[r];
    if
    :: MEMBER(v, r) ->
      assert(held[r]);
      /* What the old tail had, the new one has; more may follow. */
      if
      :: NEXT(v, r) == NONE -> below[r] = length[r]
      :: else
      fi
    :: else -> held[r] = 0
    fi;
    version[r] = v /* the last, since v may be this one's next */
  }
}

/* A copy of the tail's state, and then its commands since. */
inline TakeState(r) {
  d_step {
    HAS(alive, r) && joining[version[r]] == r && !held[r] &&
        version[TAIL(version[r])] == version[r] &&
        HAS(alive, TAIL(version[r]));
    x = TAIL(version[r]);
    for (i : 0 .. LOG - 1) {
      log[r * LOG + i] = log[x * LOG + i]
    }
    for (i : 0 .. CLIENTS - 1) {
#ifdef BUG_SEQUENCES_NOT_MIGRATED
      last[r * CLIENTS + i] = 0
#else
      last[r * CLIENTS + i] = last[x * CLIENTS + i]
#endif
    }
    length[r] = length[x];
    below[r] = length[x];
    held[r] = 1;
    i = 0; x = 0
  }
}

inline SayCaughtUp(r) {
  d_step {
    HAS(alive, r) && TAIL(version[r]) == r && joining[version[r]] != NONE &&
        !caught_up[version[r]] && version[joining[version[r]]] == version[r] &&
        held[joining[version[r]]] && length[joining[version[r]]] == length[r];
    caught_up[version[r]] = 1
  }
}

proctype Shard(byte r) {
  do
  :: TakePush(r, 0)
#if CLIENTS > 1
  :: TakePush(r, 1)
#endif
  :: TakeCommand(r, version[r])
#ifdef BUG_REPLICA_TAKES_ANY_VERSION
  :: TakeCommand(r, version[r] - (version[r] > 0))
#endif
  :: TakeAck(r)
  :: TakeRoute(r, version[r] + 1)
  :: TakeRoute(r, current)
#if JOINS > 0
  :: TakeState(r)
  :: SayCaughtUp(r)
#endif
  :: done -> break
  od
}

/* Each replica that the newest route names has it, once. */
inline CheckKept(command) {
  for (i : 0 .. N - 1) {
    if
    :: MEMBER(current, i) && HAS(alive, i) ->
      seen = 0;
      for (j : 0 .. LOG - 1) {
        if
        :: j < length[i] && log[i * LOG + j] == command -> seen++
        :: else
        fi
      }
      assert(seen == 1)
    :: else
    fi
  }
  i = 0; j = 0; seen = 0
}

inline Answer(a, r) {
  d_step {
    acknowledged[a] < PUSHES && HAS(alive, r) && held[r] && HEAD(version[r]) == r &&
        HAS(asked[a], version[r]) &&
        last[r * CLIENTS + a] == acknowledged[a] + 1;
    seen = 0;
#ifdef BUG_ACK_BEFORE_TAIL
    k = length[r];
#else
    k = below[r];
#endif
    for (i : 0 .. LOG - 1) {
      if
      :: i < k && log[r * LOG + i] == COMMAND(a, acknowledged[a] + 1) -> seen = 1
      :: else
      fi
    }
    i = 0; k = 0;
    if
    :: seen ->
      acknowledged[a]++;
      CheckKept(COMMAND(a, acknowledged[a]));
      asked[a] = (acknowledged[a] < PUSHES -> 1 << client_version[a] : 0)
    :: else -> seen = 0
    fi;
    done = (acknowledged[0] == PUSHES && acknowledged[CLIENTS - 1] == PUSHES)
  }
}

proctype Client(byte a) {
  do
  :: Answer(a, 0)
  :: Answer(a, 1)
#if N > 2
  :: Answer(a, 2)
#endif
  :: d_step {
       client_version[a] < current && acknowledged[a] < PUSHES;
       client_version[a] = current;
       asked[a] = asked[a] | (1 << current)
     }
  :: done -> break
  od
}

#define OTHER(p, r) \
  (CH(current, p) != NONE && CH(current, p) != r && HAS(alive, CH(current, p)))
#define SAFE(r) (OTHER(0, r) || OTHER(1, r) || OTHER(2, r))

inline NewVersion() {
  CH(current + 1, 0) = CH(current, 0);
  CH(current + 1, 1) = CH(current, 1);
  CH(current + 1, 2) = CH(current, 2);
  joining[current + 1] = joining[current];
  current++
}

inline Remove(r) {
  if
  :: CH(current, 0) == r ->
    CH(current, 0) = CH(current, 1);
    CH(current, 1) = CH(current, 2);
    CH(current, 2) = NONE
  :: CH(current, 1) == r ->
    CH(current, 1) = CH(current, 2);
    CH(current, 2) = NONE
  :: CH(current, 2) == r -> CH(current, 2) = NONE
  :: else
  fi
}

inline GiveUp(r) {
  d_step {
    HAS(live, r) && SAFE(r) && (!HAS(alive, r) || fails > 0);
    fails = fails - HAS(alive, r);
    NewVersion();
    live = live & ~(1 << r);
    Remove(r);
    if
    :: joining[current] == r -> joining[current] = NONE
    :: else
    fi
  }
}

inline Crash(r) {
  d_step {
    HAS(alive, r) && HAS(live, r) && fails > 0 && SAFE(r);
    fails--;
    alive = alive & ~(1 << r)
  }
}

proctype Coordinator() {
  do
  :: GiveUp(0)
  :: GiveUp(1)
  :: Crash(0)
  :: Crash(1)
#if N > 2
  :: GiveUp(2)
  :: Crash(2)
#endif
#if JOINS > 0
  :: d_step {
       joins > 0 && HAS(alive, N - 1) && !MEMBER(current, N - 1) &&
           joining[current] == NONE;
       joins--;
       NewVersion();
       live = live | (1 << (N - 1));
       joining[current] = N - 1
     }
  :: d_step { /* the new tail; giving up the head then hands over */
       joining[current] != NONE && caught_up[current];
       NewVersion();
       if
       :: CH(current, 1) == NONE -> CH(current, 1) = joining[current]
       :: else -> CH(current, 2) = joining[current]
       fi;
       joining[current] = NONE
     }
#endif
  :: done -> break
  od
}

init {
  atomic {
    select(fails : 0 .. FAILS);
    select(joins : 0 .. JOINS);
    d_step {
      alive = (1 << N) - 1;
      live = (1 << MEMBERS) - 1;
      for (i : 0 .. MEMBERS - 1) {
        CH(0, i) = i;
        held[i] = 1
      }
      for (i : 0 .. CLIENTS - 1) {
        asked[i] = 1
      }
      i = 0
    }
    for (i : 0 .. N - 1) {
      run Shard(i)
    }
    for (i : 0 .. CLIENTS - 1) {
      run Client(i)
    }
    run Coordinator();
    i = 0
  }
}
