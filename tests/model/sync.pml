/* The step commit of `sync` over chains that change (ps/shard.cc,
 * ps/coordinator.cc): docs/model.md says what is abstracted.
 *
 * Messages are what their sender's state, or a bit that stays, says was sent:
 * they come in any order, late, repeated or never. A message names a version,
 * so the routes of all versions are kept. A handler of a node is one step.
 * BUG_... plants a fault, which must then be found.
 */
#ifndef N
#define N 3 /* shards */
#endif
#ifndef MEMBERS
#define MEMBERS 3 /* of them in the first chains; the others are spares */
#endif
#ifndef S
#define S 1 /* slots */
#endif
#ifndef W
#define W 2 /* workers, each with one virtual worker */
#endif
#ifndef T
#define T 2 /* steps */
#endif
#ifndef FAILS
#define FAILS 1 /* shards that crash or are wrongly given up */
#endif
#ifndef JOINS
#define JOINS 0 /* tails that are added; also hand-overs */
#endif
#ifndef RESTARTS
#define RESTARTS 0 /* of the coordinator */
#endif
#define NV (1 + FAILS + 2 * JOINS + RESTARTS) /* versions */

#define NONE 15
#define ALL_SLOTS ((1 << S) - 1)
#define FULL (W == 2 -> 17 : 1) /* a count per virtual worker, 4 bits each */
#define SHARE(w) (1 << (4 * (w)))

#define X(s, r) ((s) * N + (r))
#define CH(v, s, i) chain[((v) * S + (s)) * 3 + (i)]
#define JN(v, s) joining[(v) * S + (s)]
#define HEAD(v, s) CH(v, s, 0)
#define TAIL(v, s)                \
  (CH(v, s, 2) != NONE -> CH(v, s, 2) \
                       : (CH(v, s, 1) != NONE -> CH(v, s, 1) : CH(v, s, 0)))
#define MEMBER(v, s, r) (CH(v, s, 0) == r || CH(v, s, 1) == r || CH(v, s, 2) == r)
#define PREVIOUS(v, s, r)                                                  \
  (CH(v, s, 1) == r                                                        \
       -> CH(v, s, 0)                                                      \
       : (CH(v, s, 2) == r -> CH(v, s, 1)                                  \
                           : (JN(v, s) == r -> TAIL(v, s) : NONE)))
/* The joining one is the next of the tail once its state is on the way. */
#define NEXT(v, s, r)                                                      \
  (CH(v, s, 0) == r && CH(v, s, 1) != NONE                                 \
       -> CH(v, s, 1)                                                      \
       : (CH(v, s, 1) == r && CH(v, s, 2) != NONE                          \
              -> CH(v, s, 2)                                               \
              : (state_sent[X(s, r)] -> JN(v, s) : NONE)))
#define HAS(mask, r) (((mask) >> (r)) & 1)

/* The routes of all versions, and how many steps were committed when each was
 * made. */
byte chain[NV * S * 3] = NONE;
byte joining[NV * S] = NONE;
byte committed_at[NV];

/* The coordinator. */
byte current;          /* version */
byte committed;        /* steps */
byte live;             /* shards it counts on */
byte prepared;         /* who has said so, for this step and version */
byte decided_under[T]; /* version + 1 */
byte decided;          /* steps ever decided: a mask that nobody can lose */
#ifdef BUG_SEND_BEFORE_LOG
byte logged;
#endif

/* Shards. */
byte alive;
byte version[N];
byte step[N];
bit held[S * N];       /* has the slot's state */
byte value[S * N];     /* how many sums were applied */
byte staged[S * N];
bit holds_sum[S * N];  /* of the step, not applied yet */
bit passed[S * N];     /* all below in the chain hold it too */
bit state_sent[S * N];

/* Workers. */
byte worker_version[W];
byte worker_step[W];   /* the step whose gradients it pushes */
byte acknowledged[W];  /* slots */
byte pulled[W];        /* slots, for the next step */

/* Messages. */
#define M(s, v, t) (((s) * NV + (v)) * T + (t))
byte prepares[S * NV * T];  /* from whom */
byte acks[S * NV * T];      /* from whom */
byte states[S * NV];        /* step + 1 */
byte state_values[S * NV];
bit caught_up[S * NV];
#define PU(w, s, t) (((w) * S + (s)) * T + (t))
byte pushes[W * S * T];     /* under which versions */
byte pulls[W * S];          /* for the next step, the same */

byte fails, joins, restarts; /* still to come */
bit done;

byte i, j, k, x, c, oldest; /* of one step: 0 after it */

/* What no living shard can take any more is no state. */
inline Forget() {
  oldest = current;
  for (i : 0 .. N - 1) {
    if
    :: HAS(alive, i) && version[i] < oldest -> oldest = version[i]
    :: else
    fi
  }
  for (i : 0 .. W - 1) {
    if
    :: worker_version[i] < oldest -> oldest = worker_version[i]
    :: else
    fi
  }
  j = 0;
  do
  :: j < oldest ->
    committed_at[j] = 0;
    for (i : 0 .. S - 1) {
      CH(j, i, 0) = NONE;
      CH(j, i, 1) = NONE;
      CH(j, i, 2) = NONE;
      JN(j, i) = NONE;
      states[i * NV + j] = 0;
      state_values[i * NV + j] = 0;
      caught_up[i * NV + j] = 0;
      for (k : 0 .. T - 1) {
        prepares[M(i, j, k)] = 0;
        acks[M(i, j, k)] = 0;
      }
    }
    for (i : 0 .. W * S * T - 1) {
      pushes[i] = pushes[i] & ~(1 << j)
    }
    for (i : 0 .. W * S - 1) {
      pulls[i] = pulls[i] & ~(1 << j)
    }
    j++
  :: else -> break
  od;
  i = 0; j = 0; k = 0; oldest = 0
}

/* ---- Shards ---- */

/* Says "prepared" if all slots that it heads have been acknowledged. One that
 * heads none says so at once. */
inline SayPrepared(r) {
  c = 1;
  for (i : 0 .. S - 1) {
    if
    :: HEAD(version[r], i) == r && !passed[X(i, r)] -> c = 0
    :: else
    fi
  }
  if
#ifdef BUG_PREPARED_OF_ANY_VERSION
  :: c && step[r] == committed -> prepared = prepared | (1 << r)
#else
  :: c && step[r] == committed && version[r] == current ->
    prepared = prepared | (1 << r)
#endif
  :: else
  fi;
  i = 0; c = 0
}

/* All below hold the sum of this step: to the one before, or to all. */
inline Passed(s, r) {
  passed[X(s, r)] = 1;
  if
  :: HEAD(version[r], s) == r -> SayPrepared(r)
  :: else -> acks[M(s, version[r], step[r])] =
             acks[M(s, version[r], step[r])] | (1 << r)
  fi
}

inline Hold(s, r) {
  holds_sum[X(s, r)] = 1;
  staged[X(s, r)] = 0;
  if
  :: NEXT(version[r], s, r) == NONE -> Passed(s, r)
#ifdef BUG_JOINING_NOT_WAITED_FOR
  :: NEXT(version[r], s, r) != NONE && TAIL(version[r], s) == r ->
    prepares[M(s, version[r], step[r])] =
        prepares[M(s, version[r], step[r])] | (1 << r);
    Passed(s, r)
#endif
  :: else ->
    prepares[M(s, version[r], step[r])] =
        prepares[M(s, version[r], step[r])] | (1 << r);
#ifdef BUG_ACK_BEFORE_TAIL
    Passed(s, r)
#endif
  fi
}

inline Stage(s, r, w) {
  d_step {
    HAS(alive, r) && step[r] < T && HEAD(version[r], s) == r &&
        !holds_sum[X(s, r)] && HAS(pushes[PU(w, s, step[r])], version[r]) &&
#ifdef BUG_STAGED_TWICE
        staged[X(s, r)] < 32;
#else
        (staged[X(s, r)] & SHARE(w)) == 0;
#endif
    staged[X(s, r)] = staged[X(s, r)] + SHARE(w);
    if
    :: (staged[X(s, r)] & 15) && (W == 1 || staged[X(s, r)] > 15) ->
      assert(staged[X(s, r)] == FULL); /* each share exactly once */
      Hold(s, r)
    :: else
    fi
  }
}

inline TakePrepare(s, r, v) {
  d_step {
    HAS(alive, r) && step[r] < T && held[X(s, r)] && !holds_sum[X(s, r)] &&
        PREVIOUS(v, s, r) != NONE &&
        HAS(prepares[M(s, v, step[r])], PREVIOUS(v, s, r));
    prepares[M(s, v, step[r])] =
        prepares[M(s, v, step[r])] & ~(1 << PREVIOUS(v, s, r));
    if
    :: v == version[r] -> Hold(s, r)
    :: else -> /* only with the bug: it answers under the sender's version */
      holds_sum[X(s, r)] = 1;
      acks[M(s, v, step[r])] = acks[M(s, v, step[r])] | (1 << r)
    fi
  }
}

inline TakeAck(s, r, v) {
  d_step {
    HAS(alive, r) && step[r] < T && holds_sum[X(s, r)] && !passed[X(s, r)] &&
        NEXT(v, s, r) != NONE &&
        HAS(acks[M(s, v, step[r])], NEXT(v, s, r));
    acks[M(s, v, step[r])] = acks[M(s, v, step[r])] & ~(1 << NEXT(v, s, r));
    Passed(s, r)
  }
}

inline TakeCommit(r) {
  d_step {
    HAS(alive, r) && step[r] < T && step[r] < committed &&
        decided_under[step[r]] == version[r] + 1;
    for (j : 0 .. S - 1) {
      x = X(j, r);
      if
      :: held[x] ->
        assert(holds_sum[x]);
        value[x]++;
        assert(value[x] == step[r] + 1)
      :: else
      fi;
      staged[x] = 0;
      holds_sum[x] = 0;
      passed[x] = 0
    }
    step[r]++;
    j = 0; x = 0;
    SayPrepared(r)
  }
}

/* Route(v): from the coordinator, or from whoever refused an old message. */
inline TakeRoute(r, v) {
  d_step {
    HAS(alive, r) && version[r] < v && v <= current;
    for (j : 0 .. S - 1) {
      x = X(j, r);
      if
      :: MEMBER(v, j, r) ->
        assert(held[x]);
        assert(step[r] == committed_at[v] || step[r] + 1 == committed_at[v]);
        if
        :: step[r] < committed_at[v] ->
          assert(holds_sum[x]);
#ifndef BUG_ROUTE_WITHOUT_APPLY
          value[x]++
#endif
        :: else
        fi;
        assert(value[x] == committed_at[v])
#ifdef BUG_JOINING_KEEPS_STATE
      :: JN(v, j) == r
#endif
      :: else ->
        held[x] = 0;
        value[x] = 0
      fi;
#ifdef BUG_KEEPS_PREPARED
      if
      :: step[r] < committed_at[v] || !held[x] ->
        holds_sum[x] = 0;
        passed[x] = 0
      :: else
      fi;
#else
      holds_sum[x] = 0;
      passed[x] = 0;
#endif
      staged[x] = 0;
      state_sent[x] = 0
    }
    step[r] = committed_at[v];
    version[r] = v;
    j = 0; x = 0;
    SayPrepared(r);
    Forget()
  }
}

inline SendState(s, r) {
  d_step {
    HAS(alive, r) && TAIL(version[r], s) == r && JN(version[r], s) != NONE &&
        !state_sent[X(s, r)] &&
#ifndef BUG_STATE_WHILE_PREPARED
        !holds_sum[X(s, r)] &&
#endif
        held[X(s, r)];
    state_sent[X(s, r)] = 1;
    states[s * NV + version[r]] = step[r] + 1;
    state_values[s * NV + version[r]] = value[X(s, r)]
  }
}

/* One that has not heard of the last commit asks for it later. */
inline TakeState(s, r) {
  d_step {
    HAS(alive, r) && JN(version[r], s) == r && !caught_up[s * NV + version[r]] &&
#ifdef BUG_STATE_OF_ANOTHER_STEP
        states[s * NV + version[r]] != 0;
#else
        states[s * NV + version[r]] == step[r] + 1;
#endif
    held[X(s, r)] = 1;
    value[X(s, r)] = state_values[s * NV + version[r]];
    caught_up[s * NV + version[r]] = 1
  }
}

proctype Replica(byte s, r) {
  do
  :: Stage(s, r, 0)
#if W > 1
  :: Stage(s, r, 1)
#endif
  :: TakePrepare(s, r, version[r])
#ifdef BUG_REPLICA_TAKES_ANY_VERSION
  :: TakePrepare(s, r, current)
#endif
  :: TakeAck(s, r, version[r])
#ifdef BUG_ACK_OF_ANY_VERSION
  :: TakeAck(s, r, version[r] - (version[r] > 0))
#endif
#if JOINS > 0
  :: SendState(s, r)
  :: TakeState(s, r)
#endif
  :: done -> break
  od
}

proctype Shard(byte r) {
  do
  :: TakeCommit(r)
  :: TakeRoute(r, version[r] + 1)
  :: TakeRoute(r, current)
  :: done -> break
  od
}

/* ---- Workers ---- */

/* The head that answers, of whatever version this worker has asked under. */
#define ANSWERS(w, s, r, asked) \
  (HAS(alive, r) && HEAD(version[r], s) == r && HAS(asked, version[r]))

/* Sends what has not been answered: pushes, and pulls of the next step. */
inline Ask(w) {
  if
  :: worker_step[w] < T ->
    for (i : 0 .. S - 1) {
      if
      :: !HAS(acknowledged[w], i) ->
        pushes[PU(w, i, worker_step[w])] =
            pushes[PU(w, i, worker_step[w])] | (1 << worker_version[w])
      :: else
      fi;
      if
      :: !HAS(pulled[w], i) ->
        pulls[w * S + i] = pulls[w * S + i] | (1 << worker_version[w])
      :: else
      fi
    }
  :: else
  fi;
  i = 0
}

inline Answer(w, s, r) {
  d_step { /* to a push, at the commit */
    worker_step[w] < T && !HAS(acknowledged[w], s) &&
        ANSWERS(w, s, r, pushes[PU(w, s, worker_step[w])]) &&
#ifdef BUG_PUSH_ACKNOWLEDGED_WHEN_STAGED
        (step[r] > worker_step[w] || holds_sum[X(s, r)] ||
         (staged[X(s, r)] & SHARE(w)));
#else
        step[r] > worker_step[w];
    assert(HAS(decided, worker_step[w]));
#endif
    acknowledged[w] = acknowledged[w] | (1 << s)
  }
}

inline AnswerPull(w, s, r) {
  d_step { /* of the next step, which may wait in the head */
    worker_step[w] < T && !HAS(pulled[w], s) &&
#ifndef BUG_PULL_OF_ANY_STEP
        step[r] > worker_step[w] &&
#endif
        ANSWERS(w, s, r, pulls[w * S + s]);
    assert(held[X(s, r)] && step[r] == worker_step[w] + 1 &&
           value[X(s, r)] == worker_step[w] + 1);
    pulled[w] = pulled[w] | (1 << s)
  }
}

inline WorkerRoute(w, v) {
  d_step {
    worker_version[w] < v && v <= current && worker_step[w] < T;
    worker_version[w] = v;
#ifndef BUG_WORKER_DOES_NOT_RESEND
    Ask(w);
#endif
    Forget()
  }
}

proctype Worker(byte w) {
  do
  :: Answer(w, 0, 0)
  :: AnswerPull(w, 0, 0)
  :: Answer(w, 0, 1)
  :: AnswerPull(w, 0, 1)
#if N > 2
  :: Answer(w, 0, 2)
  :: AnswerPull(w, 0, 2)
#endif
#if N > 3
  :: Answer(w, 0, 3)
  :: AnswerPull(w, 0, 3)
#endif
#if S > 1
  :: Answer(w, 1, 0)
  :: AnswerPull(w, 1, 0)
  :: Answer(w, 1, 1)
  :: AnswerPull(w, 1, 1)
#if N > 2
  :: Answer(w, 1, 2)
  :: AnswerPull(w, 1, 2)
#endif
#endif
  :: d_step {
       worker_step[w] < T && acknowledged[w] == ALL_SLOTS &&
           pulled[w] == ALL_SLOTS;
       worker_step[w]++;
       acknowledged[w] = 0;
       pulled[w] = 0;
       for (i : 0 .. S - 1) {
         pulls[w * S + i] = 0
       }
       Ask(w);
       if
       :: worker_step[0] == T && worker_step[W - 1] == T -> done = 1
       :: else
       fi
     }
  :: WorkerRoute(w, worker_version[w] + 1)
  :: WorkerRoute(w, current)
  :: done -> break
  od
}

/* ---- The coordinator ---- */

/* Written before anything of it is sent. */
inline NewVersion() {
  for (i : 0 .. S - 1) {
    for (j : 0 .. 2) {
      CH(current + 1, i, j) = CH(current, i, j)
    }
    JN(current + 1, i) = JN(current, i)
  }
  current++;
  committed_at[current] = committed;
#ifndef BUG_PREPARED_OF_ANY_VERSION
  prepared = 0;
#endif
  i = 0; j = 0
}

inline Remove(s, r) {
  if
  :: CH(current, s, 0) == r ->
    CH(current, s, 0) = CH(current, s, 1);
    CH(current, s, 1) = CH(current, s, 2);
    CH(current, s, 2) = NONE
  :: CH(current, s, 1) == r ->
    CH(current, s, 1) = CH(current, s, 2);
    CH(current, s, 2) = NONE
  :: CH(current, s, 2) == r -> CH(current, s, 2) = NONE
  :: else
  fi
}

/* Every slot keeps a replica that runs and that the route names. */
#define OTHER(s, p, r) \
  (CH(current, s, p) != NONE && CH(current, s, p) != r && \
   HAS(alive, CH(current, s, p)))
#define SLOT_SAFE(s, r) (OTHER(s, 0, r) || OTHER(s, 1, r) || OTHER(s, 2, r))
#define SAFE(r) (SLOT_SAFE(0, r) && SLOT_SAFE(S - 1, r))

/* Gives up a shard that has crashed, or one that runs on. */
inline GiveUp(r) {
  d_step {
    HAS(live, r) && SAFE(r) && (!HAS(alive, r) || fails > 0);
    if
    :: HAS(alive, r) -> fails--
    :: else
    fi;
    NewVersion();
    live = live & ~(1 << r);
    for (k : 0 .. S - 1) {
      Remove(k, r);
      if
      :: JN(current, k) == r -> JN(current, k) = NONE
      :: else
      fi
    }
    k = 0
  }
}

inline Crash(r) {
  d_step {
    HAS(alive, r) && HAS(live, r) && fails > 0 && SAFE(r);
    fails--;
    alive = alive & ~(1 << r);
    version[r] = 0;
    step[r] = 0;
    for (i : 0 .. S - 1) {
      x = X(i, r);
      held[x] = 0;
      value[x] = 0;
      staged[x] = 0;
      holds_sum[x] = 0;
      passed[x] = 0;
      state_sent[x] = 0
    }
    x = 0;
    Forget()
  }
}

inline Join(s, r) {
  d_step {
    joins > 0 && HAS(alive, r) && !MEMBER(current, s, r) &&
        JN(current, s) == NONE && (HAS(live, r) || r >= MEMBERS);
    joins--;
    NewVersion();
    live = live | (1 << r);
    JN(current, s) = r
  }
}

/* The new one becomes the tail, or the head; a hand-over drops the head. The
 * only replica of a chain of one is not handed over to one that has just died:
 * such a chain promises nothing. */
inline Promote(s, where) {
  d_step {
    JN(current, s) != NONE &&
#ifndef BUG_MEMBER_BEFORE_CAUGHT_UP
        caught_up[s * NV + current] &&
#endif
        (where == 2 -> HAS(alive, JN(current, s)) || OTHER(s, 1, NONE) ||
                           OTHER(s, 2, NONE)
                     : CH(current, s, 2) == NONE);
    NewVersion();
    if
    :: where == 2 -> Remove(s, CH(current, s, 0))
    :: else
    fi;
    if
    :: where == 1 ->
      CH(current, s, 2) = CH(current, s, 1);
      CH(current, s, 1) = CH(current, s, 0);
      CH(current, s, 0) = JN(current, s)
    :: CH(current, s, 0) == NONE && where != 1 ->
      CH(current, s, 0) = JN(current, s)
    :: CH(current, s, 0) != NONE && CH(current, s, 1) == NONE && where != 1 ->
      CH(current, s, 1) = JN(current, s)
    :: else -> CH(current, s, 2) = JN(current, s)
    fi;
    JN(current, s) = NONE
  }
}

proctype Coordinator() {
  do
  :: d_step {
       committed < T &&
#ifdef BUG_COMMIT_BEFORE_ALL
           ((live & ~prepared) & ((live & ~prepared) - 1)) == 0;
#else
           (prepared & live) == live;
#endif
       assert(!HAS(decided, committed));
       decided = decided | (1 << committed);
       decided_under[committed] = current + 1;
       committed++;
       prepared = 0;
#ifndef BUG_SEND_BEFORE_LOG
     }
#else
     }
  :: d_step { logged != committed; logged = committed }
#endif
  :: GiveUp(0)
  :: GiveUp(1)
#if N > 2
  :: GiveUp(2)
#endif
#if N > 3
  :: GiveUp(3)
#endif
  :: Crash(0)
  :: Crash(1)
#if N > 2
  :: Crash(2)
#endif
#if N > 3
  :: Crash(3)
#endif
#if JOINS > 0
  :: Join(0, N - 1)
  :: Join(0, N - 2)
  :: Promote(0, 0)
  :: Promote(0, 1)
  :: Promote(0, 2)
#if S > 1
  :: Join(1, N - 1)
  :: Promote(1, 0)
  :: Promote(1, 1)
  :: Promote(1, 2)
#endif
#endif
#if RESTARTS > 0
  :: d_step {
       restarts > 0;
       restarts--;
#ifdef BUG_SEND_BEFORE_LOG
       committed = logged;
#endif
#ifdef BUG_RESTART_KEEPS_VERSION
       prepared = 0
#else
       NewVersion()
#endif
     }
#endif
  :: done -> break
  od
}

init {
  atomic {
    select(fails : 0 .. FAILS);
    select(joins : 0 .. JOINS);
    select(restarts : 0 .. RESTARTS);
    d_step {
      alive = (1 << N) - 1;
      live = (1 << MEMBERS) - 1;
      for (i : 0 .. S - 1) {
        for (j : 0 .. MEMBERS - 1) {
          /* Slots are headed by different shards. */
          CH(0, i, j) = (i + j) % MEMBERS;
          held[X(i, j)] = 1
        }
      }
      /* The first step's values are known. */
      for (k : 0 .. W * S - 1) {
        pushes[k * T] = 1;
        pulls[k] = 1
      }
      /* Those that head nothing say so at once. */
      for (k : S .. MEMBERS - 1) {
        prepared = prepared | (1 << k)
      }
      i = 0; j = 0; k = 0
    }
    for (i : 0 .. N - 1) {
      run Shard(i);
      for (j : 0 .. S - 1) {
        run Replica(j, i)
      }
    }
    for (i : 0 .. W - 1) {
      run Worker(i)
    }
    run Coordinator();
    i = 0; j = 0
  }
}
