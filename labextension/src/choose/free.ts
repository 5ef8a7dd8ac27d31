/** What a wish for devices finds in the pool. Pure. */

import type { IDevice, INode, IResourceRequest } from '../api/types';
import { free } from '../words/devices';

export const ANY: IResourceRequest = { devices: 1, kind: null, memory_bytes: 0, node: null };

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
