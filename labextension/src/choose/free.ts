/** What a wish for devices finds in the pool. Pure. */

import type { IDevice, INode, IResourceRequest } from '../api/types';
import { free } from '../words/devices';

export const ANY: IResourceRequest = {
  devices: 1,
  kind: null,
  memory_bytes: 0,
  node: null,
  standby: 0
};

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
    now: usable.filter(node => enough(free(node))).length,
    ever: usable.filter(node => enough(node.devices)).length
  };
}
