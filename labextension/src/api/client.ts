/** The service's REST, as the Jupyter server passes it on. The browser never sees the service's token. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';

import { type ITranslates, Problem, problemOf } from './problem';
import type {
  ICheckpoint,
  ICheckpointDiff,
  IChoice,
  IChosen,
  IDrain,
  IEvent,
  IKernel,
  IMigration,
  IMissed,
  INode,
  IPlan,
  IRestoreReport,
  IService,
  ISession,
  ISessionView
} from './types';

export const NAMESPACE = 'jupyter-gpuaas';

/** So many sessions are asked for at a time. */
const PAGE = 500;

type Query = { readonly [name: string]: string | number | boolean };

export class Client {
  /** Whether the Jupyter server has answered: told with each request. */
  readonly reached: ISignal<this, boolean>;

  constructor(
    private readonly settings: ServerConnection.ISettings,
    private readonly trans: ITranslates
  ) {
    this.reached = this._reached;
  }

  service(): Promise<IService> {
    return this.ask('GET', 'service');
  }

  startService(): Promise<IService> {
    return this.ask('POST', 'service/start');
  }

  kernel(id: string): Promise<IKernel> {
    return this.ask('GET', `kernels/${encodeURIComponent(id)}`);
  }

  /** From now on, the end of this Jupyter kernel leaves its session running. */
  detach(kernel: string): Promise<unknown> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernel)}/detach`);
  }

  chosen(path: string): Promise<IChosen> {
    return this.ask('GET', 'choices', { path });
  }

  choose(path: string, choice: IChoice): Promise<IChosen> {
    return this.ask('PUT', 'choices', { path }, choice);
  }

  /** What the session's cells said behind a record of its journal. */
  missed(session: string, after: number | string): Promise<IMissed> {
    return this.ask('GET', `sessions/${encodeURIComponent(session)}/missed`, { after });
  }

  async sessions(): Promise<ISession[]> {
    const found: ISession[] = [];
    for (;;) {
      const after = found.at(-1)?.id ?? '';
      const page: ISession[] = await this.ask('GET', 'v1/sessions', { limit: PAGE, after });
      found.push(...page);
      if (page.length !== PAGE) {
        return found;
      }
    }
  }

  session(id: string): Promise<ISessionView> {
    return this.ask('GET', of('sessions', id));
  }

  nodes(): Promise<INode[]> {
    return this.ask('GET', 'v1/nodes');
  }

  story(session: string): Promise<IEvent[]> {
    return this.ask('GET', 'v1/events', { session, limit: 1000 });
  }

  /** What happened after an event, of all sessions, oldest first. */
  eventsAfter(seq: number, limit: number): Promise<IEvent[]> {
    return this.ask('GET', 'v1/events', { after: seq, limit });
  }

  cordon(node: string): Promise<unknown> {
    return this.ask('POST', of('nodes', node, 'cordon'));
  }

  /** The node takes sessions again; whatever was emptied is so no longer. */
  uncordon(node: string): Promise<unknown> {
    return this.ask('DELETE', of('nodes', node, 'cordon'));
  }

  drain(node: string, deadline_s: number, acceptLoss: boolean): Promise<IDrain> {
    const body = { deadline_s, accept_loss: acceptLoss };
    return this.ask('POST', of('nodes', node, 'drain'), {}, body);
  }

  /** Move no further session off the node. */
  stopDrain(node: string): Promise<IDrain> {
    return this.ask('DELETE', of('nodes', node, 'drain'));
  }

  release(session: string): Promise<ISessionView> {
    return this.ask('DELETE', of('sessions', session));
  }

  interrupt(session: string): Promise<unknown> {
    return this.ask('POST', of('sessions', session, 'interrupt'));
  }

  park(session: string, acceptLoss: boolean): Promise<ISessionView> {
    return this.ask('POST', of('sessions', session, 'park'), { accept_loss: acceptLoss });
  }

  wake(session: string): Promise<ISessionView> {
    return this.ask('POST', of('sessions', session, 'wake'));
  }

  plan(session: string, target: string | null): Promise<IPlan> {
    return this.ask('POST', of('sessions', session, 'migrations'), {}, { target, dry_run: true });
  }

  migrate(session: string, target: string | null, acceptLoss: boolean): Promise<IMigration> {
    const body = { target, accept_loss: acceptLoss };
    return this.ask('POST', of('sessions', session, 'migrations'), {}, body);
  }

  cancelMigration(session: string, migration: string): Promise<IMigration> {
    return this.ask('DELETE', of('sessions', session, 'migrations', migration));
  }

  checkpoints(session: string): Promise<ICheckpoint[]> {
    return this.ask('GET', of('sessions', session, 'checkpoints'));
  }

  /** With a name of one's own for the request, it can be given up. */
  takeCheckpoint(session: string, name: string, request: string): Promise<ICheckpoint> {
    return this.ask('POST', of('sessions', session, 'checkpoints'), {}, { name, request });
  }

  restore(session: string, checkpoint: string, request: string): Promise<IRestoreReport> {
    return this.ask('POST', of('sessions', session, 'restores'), {}, { checkpoint, request });
  }

  /** Answers when the new session is there, which then begins with the checkpoint. */
  beginFrom(session: string, checkpoint: string, name: string): Promise<IRestoreReport> {
    const body = { checkpoint, new: name };
    return this.ask('POST', of('sessions', session, 'restores'), {}, body);
  }

  /** Gives up a checkpoint or a restore that was asked for under this name. */
  giveUp(session: string, request: string): Promise<unknown> {
    return this.ask('DELETE', of('sessions', session, 'requests', request));
  }

  diff(session: string, one: string, other: string): Promise<ICheckpointDiff> {
    return this.ask('GET', of('sessions', session, 'checkpoints', one, 'diff', other));
  }

  /** An empty name takes away the one that it has. */
  name(session: string, checkpoint: string, name: string): Promise<ICheckpoint> {
    return this.ask('PATCH', of('sessions', session, 'checkpoints', checkpoint), {}, { name });
  }

  forget(session: string, checkpoint: string): Promise<ICheckpoint> {
    return this.ask('DELETE', of('sessions', session, 'checkpoints', checkpoint));
  }

  /** One request; raises Problem where it is refused or does not arrive. */
  protected async ask<T>(
    method: string,
    path: string,
    query: Query = {},
    body?: unknown
  ): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, NAMESPACE, path) + queryOf(query);
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
    }
    let response: Response;
    let text: string;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
      text = await response.text(); // Which can break off as well.
    } catch {
      this._reached.emit(false);
      const message = this.trans.__('The Jupyter server does not answer.');
      throw new Problem(message, '', 0, 'NetworkError');
    }
    this._reached.emit(true);
    const content: unknown = parsed(text);
    if (!response.ok) {
      throw problemOf(response.status, content, this.trans);
    }
    if (content === undefined) {
      // Such as the page of a login, or of what is between browser and Jupyter server.
      const message = this.trans.__('The Jupyter server gave an answer that makes no sense here.');
      const hint = this.trans.__('Reload the page; you may have to log in again.');
      throw new Problem(message, hint, response.status, 'ProtocolError');
    }
    return content as T;
  }

  private readonly _reached = new Signal<this, boolean>(this);
}

function of(...parts: string[]): string {
  return `v1/${parts.map(encodeURIComponent).join('/')}`;
}

function queryOf(query: Query): string {
  const pairs = Object.entries(query).map(([name, value]) => [name, String(value)]);
  return pairs.length === 0 ? '' : `?${new URLSearchParams(pairs).toString()}`;
}

/** Undefined where it is no JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
