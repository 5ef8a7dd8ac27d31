import { event, migration, node, service, session, status } from '../../__tests__/facts';
import { HISTORY, type IState, MOST_EVENTS, NOTHING, reduce, same } from '../state';

function known(...sessions: ReturnType<typeof session>[]): IState {
  return reduce(NOTHING, { of: 'sessions', sessions, since: 0 });
}

describe('reduce', () => {
  it('keeps the objects of sessions that have not changed', () => {
    const before = known(session({ id: 's1' }), session({ id: 's2' }));

    const after = reduce(before, {
      of: 'sessions',
      sessions: [session({ id: 's1' }), session({ id: 's2', state: 'busy' })],
      since: 1
    });

    expect(after.sessions.get('s1')).toBe(before.sessions.get('s1'));
    expect(after.sessions.get('s2')?.state).toBe('busy');
  });

  it('keeps the whole list when nothing has changed', () => {
    const before = known(session());

    expect(reduce(before, { of: 'sessions', sessions: [session()], since: 1 })).toBe(before);
  });

  it('drops sessions that are not listed any more', () => {
    const after = reduce(known(session({ id: 's1' }), session({ id: 's2' })), {
      of: 'sessions',
      sessions: [session({ id: 's2' })],
      since: 1
    });

    expect([...after.sessions.keys()]).toEqual(['s2']);
  });

  it('keeps what has begun while a list was on its way, and what has ended meanwhile out of it', () => {
    const before = reduce(known(session({ id: 'ended' }), session({ id: 'new', last_event: 9 })), {
      of: 'gone',
      session: 'ended'
    });

    const after = reduce(before, {
      of: 'sessions',
      sessions: [session({ id: 'ended' }), session({ id: 'old' })],
      since: 5
    });

    expect([...after.sessions.keys()]).toEqual(['old', 'new']);
  });

  it('passes over an answer that news have overtaken', () => {
    const busy = reduce(known(session()), {
      of: 'event',
      event: event({ seq: 7, target: 'busy' })
    });
    const late = session({ state: 'idle', last_event: 6 });

    const view = { session: late, checkpoints: null, migration: null };
    expect(reduce(busy, { of: 'view', view })).toBe(busy);
    expect(reduce(busy, { of: 'sessions', sessions: [late], since: 6 })).toBe(busy);
  });

  it('passes over news that an answer has told of already, but keeps them for the story', () => {
    const view = {
      session: session({ state: 'parked', last_event: 8 }),
      checkpoints: null,
      migration: null
    };
    const before = reduce(NOTHING, { of: 'view', view });

    const after = reduce(before, { of: 'event', event: event({ seq: 7, target: 'busy' }) });

    expect(after.sessions).toBe(before.sessions);
    expect(after.events).toHaveLength(1);
  });

  it('lets no migration go back', () => {
    const done = reduce(known(session()), {
      of: 'migration',
      migration: migration({ phase: 'done' })
    });

    const late = migration({ phase: 'cutover' });
    expect(reduce(done, { of: 'migration', migration: late })).toBe(done);
    const next = reduce(done, { of: 'migration', migration: migration({ id: 'm2' }) });
    expect(next.migrations.get('s1')?.id).toBe('m2');
  });

  it('remembers which session is gone', () => {
    const after = reduce(known(session()), { of: 'gone', session: 's1' });

    expect(after.sessions.size).toBe(0);
    expect(after.gone.has('s1')).toBe(true);
  });

  it('follows a transition before anybody has asked', () => {
    const after = reduce(known(session()), {
      of: 'event',
      event: event({ seq: 7, target: 'lost', cause: 'its node is gone', epoch: 2 })
    });

    expect(after.sessions.get('s1')).toMatchObject({
      state: 'lost',
      cause: 'its node is gone',
      epoch: 2,
      last_event: 7
    });
  });

  it('learns of a place in the queue', () => {
    const before = known(session({ state: 'queued', queue_place: 3, lease: null }));

    const after = reduce(before, {
      of: 'event',
      event: event({
        seq: 2,
        kind: 'session',
        source: '',
        target: '',
        detail: { queue_place: 2 }
      })
    });

    expect(after.sessions.get('s1')?.queue_place).toBe(2);
  });

  it('passes over an event that it has heard before', () => {
    const once = reduce(known(session()), {
      of: 'event',
      event: event({ seq: 5, target: 'busy' })
    });

    expect(reduce(once, { of: 'event', event: event({ seq: 5, target: 'busy' }) })).toBe(once);
    expect(reduce(once, { of: 'event', event: event({ seq: 4, target: 'lost' }) })).toBe(once);
  });

  it('takes two events of one number that are about different things', () => {
    const once = reduce(known(session()), { of: 'event', event: event({ seq: 5 }) });

    const twice = reduce(once, { of: 'event', event: event({ seq: 5, kind: 'allocation' }) });

    expect(twice.events).toHaveLength(2);
  });

  it('follows a migration by its events', () => {
    const begun = reduce(known(session()), {
      of: 'migration',
      migration: migration({ via: 'image' })
    });

    const after = reduce(begun, {
      of: 'event',
      event: event({
        seq: 2,
        kind: 'migration',
        cause: 'copied',
        detail: {
          migration: 'm1',
          phase: 'restore',
          source: 'node-a',
          target: 'node-b',
          bytes_sent: 12
        }
      })
    });

    expect(after.migrations.get('s1')).toMatchObject({
      phase: 'restore',
      bytes_sent: 12,
      via: 'image'
    });
  });

  it('learns that the service came up', () => {
    const off = reduce(NOTHING, { of: 'service', service: service({ state: 'off', nodes: 0 }) });

    const after = reduce(off, {
      of: 'event',
      event: event({ seq: 0, kind: 'state', detail: { state: 'ready', problem: '', nodes: 2 } })
    });

    expect(after.service).toMatchObject({ state: 'ready', nodes: 2, may_start: true });
    expect(after.events).toEqual([]);
  });

  it('keeps what is known of checkpoints when a session has no host to ask', () => {
    const view = { session: session(), checkpoints: status(), migration: null };
    const before = reduce(NOTHING, { of: 'view', view });

    const after = reduce(before, { of: 'view', view: { ...view, checkpoints: null } });

    expect(after.checkpoints.get('s1')).toEqual(status());
  });

  it('bounds history and events', () => {
    let state = NOTHING;
    for (let turn = 0; turn < MOST_EVENTS + 10; turn++) {
      state = reduce(state, { of: 'nodes', nodes: [node()] });
      state = reduce(state, { of: 'event', event: event({ seq: turn + 1, kind: 'service' }) });
    }

    expect(state.history.get('node-a/cuda:0')).toHaveLength(HISTORY);
    expect(state.events).toHaveLength(MOST_EVENTS);
    expect(state.events[MOST_EVENTS - 1]?.seq).toBe(MOST_EVENTS + 10);
  });

  it('draws how full a device is where its utilisation cannot be read', () => {
    const sample = { device_id: 'cuda:0', used_bytes: 70.5e9, utilisation: -1 };

    const state = reduce(NOTHING, { of: 'nodes', nodes: [node({ samples: [sample] })] });

    expect(state.history.get('node-a/cuda:0')).toEqual([0.5]);
  });
});

describe('a Jupyter server that does not answer', () => {
  it('is gone since the first time, and back once', () => {
    const away = reduce(reduce(NOTHING, { of: 'away', time_s: 5 }), { of: 'away', time_s: 9 });
    expect(away).toMatchObject({ away_s: 5, returns: 0 });

    const back = reduce(away, { of: 'back' });
    expect(back).toMatchObject({ away_s: 0, returns: 1 });
    expect(reduce(back, { of: 'back' })).toBe(back);
  });
});

describe('a transition', () => {
  it('begins the time in the new state, and what was foreseen for the old one is void', () => {
    const before = known(session({ state: 'idle', since_s: 5, parks_s: 99 }));

    const after = reduce(before, { of: 'event', event: event({ seq: 2, time_s: 50 }) });

    expect(after.sessions.get('s1')).toMatchObject({ state: 'busy', since_s: 50, parks_s: 0 });
  });
});

describe('same', () => {
  it.each([
    [{ a: [1, { b: null }] }, { a: [1, { b: null }] }, true],
    [{ a: 1 }, { a: 1, b: 2 }, false],
    [[1, 2], [2, 1], false],
    [[], {}, false],
    [null, {}, false]
  ])('%j and %j: %s', (one, other, expected) => {
    expect(same(one, other)).toBe(expected);
  });
});
