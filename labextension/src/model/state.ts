/**
 * What is known of the service, as one value that is never changed in place, and how news change it. Pure.
 *
 * What did not change stays the same object, so that a view can tell by identity what to paint again.
 */

import type { ICheckpointStatus, IEvent, IMigration, INode, IService } from '../api/types';
import type { ISession, ISessionView, Phase, SessionState } from '../api/types';
import { isOver, STEPS } from './phases';

export interface IState {
  /** Null until it was asked for. */
  readonly service: IService | null;
  readonly sessions: ReadonlyMap<string, ISession>;
  /** Ids of sessions that have ended and that the service does not tell of any more. */
  readonly gone: ReadonlySet<string>;
  /** Of the sessions that were looked at. */
  readonly checkpoints: ReadonlyMap<string, ICheckpointStatus>;
  readonly migrations: ReadonlyMap<string, IMigration>;
  readonly nodes: ReadonlyMap<string, INode>;
  /** Utilisation or fullness of each device, newest last, for the short history lines. */
  readonly history: ReadonlyMap<string, readonly number[]>;
  /** Newest last, of all sessions, as far as they were heard of since the page was opened. */
  readonly events: readonly IEvent[];
  /** Since when the Jupyter server does not answer; 0 while it does. */
  readonly away_s: number;
  /** How often it was gone, and is back: what was asked for before then has to be asked for again. */
  readonly returns: number;
}

export const NOTHING: IState = {
  service: null,
  sessions: new Map(),
  gone: new Set(),
  checkpoints: new Map(),
  migrations: new Map(),
  nodes: new Map(),
  history: new Map(),
  events: [],
  away_s: 0,
  returns: 0
};

export type News =
  | { readonly of: 'service'; readonly service: IService }
  | {
      readonly of: 'sessions';
      readonly sessions: readonly ISession[];
      /** The newest event that was known when they were asked for: sessions of later ones are not listed. */
      readonly since: number;
    }
  | { readonly of: 'view'; readonly view: ISessionView }
  | { readonly of: 'gone'; readonly session: string }
  | { readonly of: 'nodes'; readonly nodes: readonly INode[] }
  | { readonly of: 'migration'; readonly migration: IMigration }
  | { readonly of: 'event'; readonly event: IEvent }
  | { readonly of: 'away'; readonly time_s: number }
  | { readonly of: 'back' };

export const HISTORY = 60;
export const MOST_EVENTS = 500;

export function reduce(state: IState, news: News): IState {
  switch (news.of) {
    case 'service':
      return same(state.service, news.service) ? state : { ...state, service: news.service };
    case 'sessions':
      return changed(state, { sessions: listed(state, news.sessions, news.since) });
    case 'view':
      return withView(state, news.view);
    case 'gone':
      return {
        ...state,
        sessions: without(state.sessions, news.session),
        gone: new Set(state.gone).add(news.session)
      };
    case 'nodes':
      return {
        ...state,
        nodes: merged(state.nodes, news.nodes),
        history: grown(state.history, news.nodes)
      };
    case 'migration':
      return changed(state, { migrations: withMigration(state.migrations, news.migration) });
    case 'event':
      return withEvent(state, news.event);
    case 'away':
      return state.away_s > 0 ? state : { ...state, away_s: news.time_s };
    case 'back':
      return state.away_s === 0 ? state : { ...state, away_s: 0, returns: state.returns + 1 };
  }
}

function withView(state: IState, { session, checkpoints, migration }: ISessionView): IState {
  return changed(state, {
    sessions: put(state.sessions, session.id, newest(state, session)),
    checkpoints:
      checkpoints === null ? state.checkpoints : put(state.checkpoints, session.id, checkpoints),
    migrations: migration === null ? state.migrations : withMigration(state.migrations, migration)
  });
}

/** The state with these parts; the same object where they are what it has. */
function changed(state: IState, parts: Partial<IState>): IState {
  const isSame = (Object.keys(parts) as Array<keyof IState>).every(
    key => state[key] === parts[key]
  );
  return isSame ? state : { ...state, ...parts };
}

/** A whole list of sessions, without what has ended and with what has begun while it was on its way. */
function listed(state: IState, sessions: readonly ISession[], since: number): IState['sessions'] {
  const ids = new Set(sessions.map(({ id }) => id));
  const younger = [...state.sessions.values()].filter(
    ({ id, last_event }) => last_event > since && !ids.has(id)
  );
  const found = sessions
    .filter(({ id }) => !state.gone.has(id))
    .map(session => newest(state, session));
  return merged(state.sessions, [...found, ...younger]);
}

/** The session as it is known where an answer was on its way while news overtook it. */
function newest({ sessions }: IState, session: ISession): ISession {
  const known = sessions.get(session.id);
  return known !== undefined && known.last_event > session.last_event ? known : session;
}

/** A migration does not go back, whatever order its news come in. */
function withMigration(migrations: IState['migrations'], next: IMigration): IState['migrations'] {
  const known = migrations.get(next.session_id);
  const isOld =
    known?.id === next.id &&
    (standing(known) > standing(next) ||
      (known.phase === next.phase && known.bytes_sent > next.bytes_sent));
  return isOld ? migrations : put(migrations, next.session_id, next);
}

/** How far it is. */
function standing(migration: IMigration): number {
  return isOver(migration) ? STEPS.length : STEPS.indexOf(migration.phase);
}

/** An event says how a session stands before anybody has asked for the rest. */
function withEvent(state: IState, event: IEvent): IState {
  if (event.kind === 'state') {
    const { service } = state; // The Jupyter server's view of the service; not part of anybody's story.
    return service === null ? state : { ...state, service: { ...service, ...served(event) } };
  }
  const since = state.events.filter(each => each.seq >= event.seq);
  if (since.some(each => each.seq > event.seq || each.kind === event.kind)) {
    return state; // Heard before: streams begin again where they are not sure.
  }
  const events = [...state.events.slice(1 - MOST_EVENTS), event];
  const known = state.sessions.get(event.session_id);
  // An answer may have told of it already.
  const session = known !== undefined && known.last_event < event.seq ? known : undefined;
  if (event.kind === 'transition' && session !== undefined) {
    const next: ISession = {
      ...session,
      state: event.target as SessionState,
      cause: event.cause,
      epoch: event.epoch,
      queue_place: number(event.detail['queue_place']),
      last_event: event.seq,
      since_s: event.source === event.target ? session.since_s : event.time_s,
      parks_s: 0,
      starts_s: 0
    };
    return { ...state, events, sessions: put(state.sessions, session.id, next) };
  }
  if (
    event.kind === 'session' &&
    session !== undefined &&
    number(event.detail['queue_place']) > 0
  ) {
    const next = {
      ...session,
      queue_place: number(event.detail['queue_place']),
      last_event: event.seq
    };
    return { ...state, events, sessions: put(state.sessions, session.id, next) };
  }
  if (event.kind === 'migration') {
    return { ...state, events, migrations: moved(state.migrations, event) };
  }
  return { ...state, events };
}

function served({ detail }: IEvent): Partial<IService> {
  return {
    state: detail['state'] as IService['state'],
    problem: String(detail['problem'] ?? ''),
    nodes: number(detail['nodes'])
  };
}

function moved(migrations: IState['migrations'], event: IEvent): IState['migrations'] {
  const { detail, session_id } = event;
  const before = migrations.get(session_id);
  const known = before?.id === detail['migration'] ? before : undefined;
  const next: IMigration = {
    id: String(detail['migration']),
    session_id,
    source: String(detail['source']),
    target: String(detail['target']),
    phase: detail['phase'] as Phase,
    via: known?.via ?? 'portable',
    cause: event.cause,
    started_s: known?.started_s ?? event.time_s,
    bytes_sent: number(detail['bytes_sent']),
    downtime_s: number(detail['downtime_s']),
    total_s: number(detail['total_s']),
    lost: known?.lost ?? {}
  };
  return withMigration(migrations, next);
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

function put<V>(map: ReadonlyMap<string, V>, key: string, value: V): ReadonlyMap<string, V> {
  const before = map.get(key);
  if (before !== undefined && same(before, value)) {
    return map;
  }
  return new Map(map).set(key, value);
}

function without<V>(map: ReadonlyMap<string, V>, key: string): ReadonlyMap<string, V> {
  const next = new Map(map);
  return next.delete(key) ? next : map;
}

/** The new list as a map, in which what is equal to before is the object from before. */
function merged<V extends { readonly id: string }>(
  before: ReadonlyMap<string, V>,
  values: readonly V[]
): ReadonlyMap<string, V> {
  const next = new Map<string, V>();
  let changed = before.size !== values.length;
  for (const value of values) {
    const old = before.get(value.id);
    const kept = old !== undefined && same(old, value) ? old : value;
    changed ||= kept !== old;
    next.set(value.id, kept);
  }
  return changed ? next : before;
}

export function deviceKey(node: string, device: string): string {
  return `${node}/${device}`;
}

function grown(history: IState['history'], nodes: readonly INode[]): IState['history'] {
  const next = new Map<string, readonly number[]>();
  for (const node of nodes) {
    for (const device of node.devices) {
      const key = deviceKey(node.id, device.id);
      const sample = node.samples.find(each => each.device_id === device.id);
      const before = history.get(key) ?? [];
      next.set(
        key,
        sample === undefined
          ? before
          : [
              ...before.slice(1 - HISTORY),
              level(sample.utilisation, sample.used_bytes, device.memory_bytes)
            ]
      );
    }
  }
  return next;
}

/** What a history line draws: utilisation where it is known, else how full the memory is. */
function level(utilisation: number, used: number, whole: number): number {
  const value = utilisation >= 0 ? utilisation : whole > 0 ? used / whole : 0;
  return Math.min(1, Math.max(0, value));
}

/** Equality of what came as JSON. */
export function same(one: unknown, other: unknown): boolean {
  if (one === other) {
    return true;
  }
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null) {
    return false;
  }
  const keys = Object.keys(one);
  return (
    Array.isArray(one) === Array.isArray(other) &&
    keys.length === Object.keys(other).length &&
    keys.every(key => same((one as never)[key], (other as never)[key]))
  );
}
