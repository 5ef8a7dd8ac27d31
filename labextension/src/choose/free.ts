/** What a wish for devices finds in the pool. Pure. */

import type { IDevice, INode, IResourceRequest } from '../api/types';
import { free } from '../words/devices';

export const ANY: IResourceRequest = {
  devices: 1,
  kind: null,
  memory_bytes: 0,
  node: null,
  standby: 0,
  share: 1
};

export const GB = 1e9;
export const MOST_DEVICES = 1024;

/** How many devices somebody means by what was typed: always some whole number of them. */
export function countOf(typed: string): number {
  return Math.min(MOST_DEVICES, Math.max(1, Math.trunc(Number(typed)) || 1));
}

/** What parts of a device can be chosen. One that was asked for otherwise is kept. */
export function partsWith(share: number): number[] {
  return [...new Set([1, 0.5, 0.25, share])].sort((one, other) => other - one);
}

/** How much memory somebody means by what was typed, in GB: always a whole number of bytes. */
export function bytesOf(typed: string): number {
  return Math.round(Math.max(0, Number(typed) || 0) * GB);
}

/** A wish after a change of it: what does not go with that is given up. */
export function changed(
  request: IResourceRequest,
  by: Partial<IResourceRequest>
): IResourceRequest {
  const next = { ...request, ...by };
  return {
    ...next,
    // A standby is on another node, so there is none for a session that wants a certain one.
    standby: next.node === null ? next.standby : 0,
    // There are parts of one device only.
    share: next.devices === 1 ? next.share : 1
  };
}

/** Whether a session has what is wanted, whatever else it was asked for with. */
export function isAsWanted(has: IResourceRequest, wanted: IResourceRequest): boolean {
  return (Object.keys(wanted) as Array<keyof IResourceRequest>).every(
    key => has[key] === wanted[key]
  );
}

export interface IFree {
  /** Nodes that could take it now. */
  readonly now: number;
  /** Nodes that could take it if they were empty. */
  readonly ever: number;
}

export function freeFor(nodes: readonly INode[], request: IResourceRequest): IFree {
  const fits = (device: IDevice): boolean =>
    (request.kind === null || device.kind === request.kind) &&
    device.memory_bytes >= request.memory_bytes;
  const usable = nodes.filter(node =>
    node.state === 'up' && request.node !== null ? node.id === request.node : node.state === 'up'
  );
  const enough = (devices: readonly IDevice[]): boolean =>
    devices.filter(fits).length >= request.devices;
  return {
    now: usable.filter(node => enough(free(node, request.share))).length,
    ever: usable.filter(node => enough(node.devices)).length
  };
}
