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
import type { Store } from './store';

/** Between two looks at the devices while somebody sees them; nothing announces how full they are. */
const LOOK_MS = 5000;
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
    void this.poll.start();
    void this.refresh();
  }

  get isDisposed(): boolean {
    return this.poll.isDisposed;
  }

  dispose(): void {
    if (!this.isDisposed) {
      this.stream.disconnect(this.onEmission, this);
      this.poll.dispose();
      window.clearTimeout(this.timer);
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

  private async refreshSessions(ids: readonly string[]): Promise<void> {
    const { state } = this.store;
    // What only the view of one session tells is asked for where somebody looked at it.
    const one = ids.length > MANY ? ids.filter(id => state.checkpoints.has(id)) : ids;
    for (const id of one) {
      void this.refreshSession(id);
    }
    if (ids.length > MANY) {
      await this.client.sessions().then(
        sessions => {
          const there = new Set(sessions.map(({ id }) => id));
          this.store.tell({ of: 'sessions', sessions });
          ids
            .filter(id => !there.has(id))
            .forEach(session => this.store.tell({ of: 'gone', session }));
        },
        () => undefined // The next event asks again.
      );
    }
  }

  private isReady(): boolean {
    return this.store.state.service?.state === 'ready';
  }

  private async askAll(): Promise<void> {
    const asked = [
      this.client.sessions().then(sessions => this.store.tell({ of: 'sessions', sessions })),
      this.client.nodes().then(nodes => this.store.tell({ of: 'nodes', nodes }))
    ];
    await Promise.allSettled(asked);
  }

  private async look(): Promise<void> {
    if (!this.isReady()) {
      this.store.tell({ of: 'service', service: await this.client.service() });
    }
    if (this.isReady()) {
      this.store.tell({ of: 'nodes', nodes: await this.client.nodes() });
    }
  }

  private onEmission(_: unknown, emission: Event.Emission): void {
    const event = eventOf(emission);
    if (event === null) {
      return;
    }
    const before = this.store.state.service?.state;
    this.store.tell({ of: 'event', event });
    if (event.kind === 'state') {
      if (this.isReady() && before !== 'ready') {
        void this.refresh();
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
    void this.refreshSessions(sessions);
    if (nodes) {
      void this.look().catch(() => undefined);
    }
  }

  private readonly poll: Poll;
  private readonly sessionsOld = new Set<string>();
  private nodesOld = false;
  private watchers = 0;
  private timer = 0;
}
