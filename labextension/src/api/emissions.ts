/** News of the service as they come through Jupyter's event stream, in the form in which the service itself tells them. */

import type { IEvent } from './types';

const OURS = 'urn:jupyter-gpuaas:';

/** What an emission of Jupyter's event stream says; null where it is not one of ours. */
export function eventOf(emission: { readonly [key: string]: unknown }): IEvent | null {
  const schema = text(emission['schema_id']);
  if (!schema.startsWith(OURS)) {
    return null;
  }
  const subject = schema.slice(OURS.length).split(':')[0] ?? '';
  const isSession = subject === 'session';
  return {
    seq: number(emission['seq']),
    time_s: number(emission['time_s']),
    kind: text(emission['kind']) || subject,
    session_id: text(emission['session']),
    source: isSession ? text(emission['source']) : '',
    target: isSession ? text(emission['target']) : '',
    cause: text(emission['cause']),
    epoch: number(emission['epoch']),
    detail: emission
  };
}

/** What has to be asked for again because of an event, besides what it says itself. Pure. */
export function outdated(event: IEvent): { readonly session: string; readonly nodes: boolean } {
  const { kind, session_id } = event;
  return {
    session: session_id,
    nodes: ['allocation', 'migration', 'node', 'drain', 'cordon', 'service'].includes(kind)
  };
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}
