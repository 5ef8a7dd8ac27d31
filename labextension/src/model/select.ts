/** Questions to the state. Pure. */

import type { ISession } from '../api/types';
import type { IState } from './state';

const ENDED: ReadonlySet<string> = new Set(['closed', 'failed']);

export function isLive(session: ISession): boolean {
  return !ENDED.has(session.state);
}

export function liveSessions(state: IState): ISession[] {
  return [...state.sessions.values()].filter(isLive);
}

/** Sessions that wait for devices, in their order. */
export function queue(state: IState): ISession[] {
  return liveSessions(state)
    .filter(session => session.state === 'queued' || session.state === 'restoring')
    .sort((one, other) => one.queue_place - other.queue_place || one.created_s - other.created_s);
}

/** Whether there is more than this one machine, so that its parts are worth being shown. */
export function isCluster(state: IState): boolean {
  return state.nodes.size > 1;
}

/** Whether there is somewhere to move to; while one is under way, its dialog and buttons stay. */
export function hasElsewhere(state: IState): boolean {
  return isCluster(state) || state.migrations.size > 0;
}

/** Whether this user may say which nodes take sessions. */
export function mayManage(state: IState): boolean {
  return state.service?.role === 'admin' && isCluster(state);
}

/** Seconds times devices that a session has used up to now. */
export function usedSeconds(session: ISession, now_s: number): number {
  const { lease, device_s, devices_since_s } = session;
  const devices = lease === null ? 0 : lease.device_ids.length * lease.share;
  const since_s = devices_since_s > 0 ? Math.max(0, now_s - devices_since_s) : 0;
  return device_s + since_s * devices;
}

/** Sessions that can be moved, and those that cannot now. */
export function isMovable(session: ISession): boolean {
  return session.state === 'idle' || session.state === 'busy';
}
