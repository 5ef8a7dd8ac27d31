/**
 * Keeps the store in step with the service: by events, and by asking again for what an event does not say.
 *
 * While the service is off nothing under `v1/` is asked, because that would start it.
 */

import type { Event } from '@jupyterlab/services';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';

import type { Client } from '../api/client';
import { eventOf, outdated } from '../api/emissions';
import { Problem } from '../api/problem';
import type { IEvent, ISession } from '../api/types';
import { InTurn } from './in_turn';
import { queue } from './select';
import type { Store } from './store';

/** Between two looks at the devices while somebody sees them, unless it is set; nothing announces how full they are. */
const LOOK_MS = 5000;
/** While the Jupyter server does not answer, it is tried again after this. */
const TRY_MS = 1000;
/** So many events that were missed are made up for; after more of them everything is asked for again. */
const MISSED = 200;
/** Of those who wait, so many are asked how long it will take. */
const FIRST_IN_QUEUE = 8;
/** Events that come together are answered with one question. */
const TOGETHER_MS = 60;
/** With more sessions than this to ask for, all are asked for at once: a queue that moves up is news of each in it. */
const MANY = 8;

export class Feed implements IDisposable {
  constructor(
    private readonly client: Client,
    private readonly store: Store,
    private readonly stream: Event.Stream
  ) {
    this.stream.connect(this.onEmission, this);
    this.poll = new Poll({
      auto: false,
      factory: () => this.look(),
      frequency: { interval: LOOK_MS, backoff: true, max: 60_000 },
      standby: () => (this.watchers === 0 ? true : 'when-hidden'),
      name: 'jupyter-gpuaas:devices'
    });
    client.reached.connect(this.onReached, this);
    window.addEventListener('online', this.tryAgain);
    window.addEventListener('offline', this.tryAgain);
    void this.poll.start();
    void this.refresh();
  }

  /** Look at the devices as often as this from now on. */
  setPause(seconds: number): void {
    this.poll.frequency = { ...this.poll.frequency, interval: seconds * 1000 };
  }

  get isDisposed(): boolean {
    return this.poll.isDisposed;
  }

  dispose(): void {
    if (!this.isDisposed) {
      this.stream.disconnect(this.onEmission, this);
      this.client.reached.disconnect(this.onReached, this);
      window.removeEventListener('online', this.tryAgain);
      window.removeEventListener('offline', this.tryAgain);
      this.poll.dispose();
      this.inTurn.end();
      window.clearTimeout(this.timer);
      window.clearTimeout(this.trying);
    }
  }

  /** Somebody looks at devices until this is disposed of. */
  watch(): IDisposable {
    this.watchers += 1;
    void this.poll.refresh();
    return new DisposableDelegate(() => {
      this.watchers -= 1;
    });
  }

  /** Ask for everything again. */
  async refresh(): Promise<void> {
    try {
      this.store.tell({ of: 'service', service: await this.client.service() });
    } catch {
      return; // The next event, or the next look, tries again.
    }
    if (this.isReady()) {
      await this.askAll();
    }
  }

  /** Ask for one session again; what is known of it stays where it cannot be asked for. */
  async refreshSession(id: string): Promise<void> {
    try {
      this.store.tell({ of: 'view', view: await this.client.session(id) });
    } catch (error) {
      if (error instanceof Problem && (error.status === 404 || error.status === 410)) {
        this.store.tell({ of: 'gone', session: id });
      }
    }
  }

  private refreshSessions(ids: readonly string[]): void {
    const { state } = this.store;
    // What only the view of one session tells is asked for where somebody looked at it.
    const one = ids.length > MANY ? ids.filter(id => state.checkpoints.has(id)) : ids;
    for (const id of one) {
      this.inTurn.ask(id, () => this.refreshSession(id));
    }
    if (ids.length > MANY) {
      ids.forEach(id => this.toBeListed.add(id));
      this.inTurn.ask('all sessions', () => this.list());
    }
  }

  /** Ask for all sessions; those that there was news of, and that are not there, are gone. */
  private async list(): Promise<void> {
    const ids = [...this.toBeListed];
    this.toBeListed.clear();
    try {
      const sessions = await this.askSessions();
      const there = new Set(sessions.map(({ id }) => id));
      ids.filter(id => !there.has(id)).forEach(session => this.store.tell({ of: 'gone', session }));
    } catch {
      return; // The next event asks again.
    }
  }

  private isReady(): boolean {
    return this.store.state.service?.state === 'ready';
  }

  private async askAll(): Promise<void> {
    const asked = [
      this.askSessions(),
      this.client.nodes().then(nodes => this.store.tell({ of: 'nodes', nodes }))
    ];
    await Promise.allSettled(asked);
  }

  private async askSessions(): Promise<readonly ISession[]> {
    const since = this.newest();
    const sessions = await this.client.sessions();
    this.store.tell({ of: 'sessions', sessions, since });
    return sessions;
  }

  /** Number of the newest event that anything is known of. */
  private newest(): number {
    const told = [...this.store.state.sessions.values()].map(session => session.last_event);
    return told.reduce((one, other) => Math.max(one, other), this.heard);
  }

  private async look(): Promise<void> {
    if (!this.isReady()) {
      this.store.tell({ of: 'service', service: await this.client.service() });
    }
    if (this.isReady()) {
      this.store.tell({ of: 'nodes', nodes: await this.client.nodes() });
      await this.makeUp();
      this.refreshSessions(
        queue(this.store.state)
          .slice(0, FIRST_IN_QUEUE)
          .map(({ id }) => id)
      );
    }
  }

  /** Hear what the event stream has not brought: it may have been cut for a while, or does not come through at all. */
  private async makeUp(): Promise<void> {
    const after = this.newest();
    if (after === 0) {
      return;
    }
    const missed = await this.client.eventsAfter(after, MISSED);
    if (missed.length === MISSED) {
      this.heard = missed[MISSED - 1]?.seq ?? after;
      await this.askAll();
    } else {
      missed.forEach(event => this.hear(event));
    }
  }

  private onReached(_: unknown, isReached: boolean): void {
    const isAway = this.store.state.away_s > 0;
    if (!isReached) {
      this.store.tell({ of: 'away', time_s: Date.now() / 1000 });
      window.clearTimeout(this.trying);
      this.trying = window.setTimeout(this.tryAgain, TRY_MS);
    } else if (isAway) {
      window.clearTimeout(this.trying);
      this.store.tell({ of: 'back' });
      void this.refresh();
      for (const session of this.store.state.checkpoints.keys()) {
        void this.refreshSession(session);
      }
    }
  }

  /** Whether the Jupyter server answers now; what follows from it is in `onReached`. */
  private readonly tryAgain = (): void => {
    void this.client.service().catch(() => undefined);
  };

  private onEmission(_: unknown, emission: Event.Emission): void {
    const event = eventOf(emission);
    if (event === null) {
      return;
    }
    this.hear(event);
  }

  private hear(event: IEvent): void {
    const before = this.store.state.service?.state;
    this.heard = Math.max(this.heard, event.seq);
    this.store.tell({ of: 'event', event });
    if (event.kind === 'state') {
      if (this.store.state.service?.state !== before) {
        void this.refresh(); // also for what may be done about it
      }
      return;
    }
    const { session, nodes } = outdated(event);
    this.nodesOld ||= nodes;
    if (session !== '') {
      this.sessionsOld.add(session);
    }
    this.timer ||= window.setTimeout(() => this.askAgain(), TOGETHER_MS);
  }

  private askAgain(): void {
    this.timer = 0;
    const sessions = [...this.sessionsOld];
    this.sessionsOld.clear();
    const nodes = this.nodesOld;
    this.nodesOld = false;
    if (!this.isReady()) {
      return;
    }
    this.refreshSessions(sessions);
    if (nodes) {
      this.inTurn.ask('nodes', () => this.look().catch(() => undefined));
    }
  }

  private readonly poll: Poll;
  private readonly inTurn = new InTurn();
  private readonly toBeListed = new Set<string>();
  private readonly sessionsOld = new Set<string>();
  private nodesOld = false;
  private watchers = 0;
  private timer = 0;
  private trying = 0;
  /** Number of the newest event that has come. */
  private heard = 0;
}
