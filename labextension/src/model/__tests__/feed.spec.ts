import { Signal } from '@lumino/signaling';

import { service, session } from '../../__tests__/facts';
import type { Client } from '../../api/client';
import { Problem } from '../../api/problem';
import type { ISession, ISessionView } from '../../api/types';
import { Feed } from '../feed';
import { Store } from '../store';

const view = (facts: Partial<ISession>): ISessionView => ({
  session: session(facts),
  checkpoints: null,
  migration: null
});

class FakeClient {
  readonly reached = new Signal<FakeClient, boolean>(this);
  readonly service = jest.fn(() => Promise.resolve(service()));
  readonly sessions = jest.fn<Promise<ISession[]>, []>(() => Promise.resolve([]));
  readonly session = jest.fn((id: string) => Promise.resolve(view({ id, last_event: 99 })));
  readonly nodes = jest.fn(() => Promise.resolve([]));
  readonly eventsAfter = jest.fn(() => Promise.resolve([]));
}

/** A feed that knows its service, and has asked for everything once. */
async function begun() {
  const client = new FakeClient();
  const store = new Store();
  const stream = new Signal<object, never>({});
  const feed = new Feed(client as unknown as Client, store, stream as never);
  await passed(0);
  /** Let Jupyter's event stream bring something. */
  const say = (facts: { readonly session: string; readonly seq: number }): void =>
    stream.emit({ schema_id: 'urn:jupyter-gpuaas:session:v1', kind: 'note', ...facts } as never);
  return { client, store, feed, say, stream };
}

async function passed(ms: number): Promise<void> {
  await jest.advanceTimersByTimeAsync(ms);
}

beforeEach(() => jest.useFakeTimers());
afterEach(() => jest.useRealTimers());

describe('Feed', () => {
  it('asks once for the events of a session that come together', async () => {
    const { client, store, feed, say } = await begun();

    [1, 2, 3].forEach(seq => say({ session: 's1', seq }));
    await passed(100);

    expect(client.session.mock.calls).toEqual([['s1']]);
    expect(store.state.sessions.get('s1')?.last_event).toBe(99);
    feed.dispose();
  });

  it('asks what may be done about a service that has ended, and nothing that would start it', async () => {
    const { client, store, feed, stream } = await begun();
    client.nodes.mockClear();
    client.sessions.mockClear();
    client.service.mockResolvedValue(service({ state: 'off', may_start: false }));

    const facts = { seq: 0, time_s: 1, cause: '', state: 'off', problem: '', nodes: 0 };
    stream.emit({ schema_id: 'urn:jupyter-gpuaas:service:v1', kind: 'state', ...facts } as never);
    await passed(0);

    expect(store.state.service).toMatchObject({ state: 'off', may_start: false });
    expect(client.nodes).not.toHaveBeenCalled();
    expect(client.sessions).not.toHaveBeenCalled();
    feed.dispose();
  });

  it('has one question about a session under way at a time, however slow the answers are', async () => {
    const { client, feed, say } = await begun();
    const waiting: Array<(view: ISessionView) => void> = [];
    client.session.mockImplementation(() => new Promise(resolve => waiting.push(resolve)));

    for (let seq = 1; seq < 6; seq++) {
      say({ session: 's1', seq });
      await passed(100);
    }
    expect(client.session).toHaveBeenCalledTimes(1);

    waiting[0]?.(view({}));
    await passed(0);
    expect(client.session).toHaveBeenCalledTimes(2);
    feed.dispose();
  });

  it('asks for all sessions at once where there is news of many, and finds out who is gone', async () => {
    const { client, store, feed, say } = await begun();
    client.session.mockClear();
    client.sessions.mockClear();
    const there = Array.from({ length: 19 }, (_, number) => session({ id: `s${number}` }));
    client.sessions.mockResolvedValue(there);

    for (let number = 0; number < 20; number++) {
      say({ session: `s${number}`, seq: number + 1 });
    }
    await passed(100);

    expect(client.sessions).toHaveBeenCalledTimes(1);
    expect(client.session).not.toHaveBeenCalled();
    expect(store.state.sessions.size).toBe(19);
    expect(store.state.gone.has('s19')).toBe(true);
    feed.dispose();
  });

  it('knows that a session is gone when the service says so, and only then', async () => {
    const { client, store, feed, say } = await begun();
    client.session.mockRejectedValueOnce(new Problem('no answer', '', 502, 'TransportError'));
    say({ session: 's1', seq: 1 });
    await passed(100);
    expect(store.state.gone.has('s1')).toBe(false);

    client.session.mockRejectedValueOnce(new Problem('it has ended', '', 410, 'SessionEnded'));
    say({ session: 's1', seq: 2 });
    await passed(100);
    expect(store.state.gone.has('s1')).toBe(true);
    feed.dispose();
  });

  it('tries a Jupyter server that is away again, and asks for everything when it is back', async () => {
    const { client, store, feed } = await begun();
    client.sessions.mockClear();
    client.service.mockImplementation(() => {
      client.reached.emit(false);
      return Promise.reject(new Problem('no answer', '', 0, 'NetworkError'));
    });
    client.reached.emit(false);
    await passed(3500);
    expect(store.state.away_s).toBeGreaterThan(0);
    expect(client.sessions).not.toHaveBeenCalled();

    client.service.mockImplementation(() => {
      client.reached.emit(true);
      return Promise.resolve(service());
    });
    await passed(1500);
    expect(store.state).toMatchObject({ away_s: 0, returns: 1 });
    expect(client.sessions).toHaveBeenCalledTimes(1);
    feed.dispose();
  });

  it('asks nothing more when it is disposed of', async () => {
    const { client, feed, say } = await begun();
    say({ session: 's1', seq: 1 });

    feed.dispose();
    say({ session: 's2', seq: 2 });
    await passed(10_000);

    expect(client.session).not.toHaveBeenCalled();
  });
});
