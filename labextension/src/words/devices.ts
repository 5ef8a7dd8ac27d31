/** Devices in words: where a session runs, and how full it is there. */

import type { IDevice, IDeviceSample, INode, ISession } from '../api/types';
import type { Words } from './trans';
import { share } from './amounts';

export interface IHeld {
  readonly device: IDevice;
  readonly sample: IDeviceSample | null;
}

/** A node's device that a session holds, or may get, with what it does now. */
export function held(node: INode, deviceIds: readonly string[]): IHeld[] {
  return node.devices
    .filter(device => deviceIds.includes(device.id))
    .map(device => ({
      device,
      sample: node.samples.find(sample => sample.device_id === device.id) ?? null
    }));
}

/** `H200 0` for `NVIDIA H200`, `cuda:0`; `CPU` for a device without an accelerator. */
export function deviceName(device: IDevice): string {
  if (device.kind === 'cpu') {
    return 'CPU';
  }
  const model = device.label.replace(/^NVIDIA\s+/, '').replace(/\s+\(.*\)$/, '');
  return `${model} ${device.id.slice(device.id.indexOf(':') + 1)}`;
}

/** `34/141 GB`; the size alone where the use is not known. */
export function fullness({ device, sample }: IHeld, words: Words): string {
  return share(words.trans, sample?.used_bytes ?? 0, device.memory_bytes);
}

/** Where a session runs, on one line: `node-a · H200 0 · 34/141 GB`. */
export function place(
  session: ISession,
  node: INode | undefined,
  words: Words,
  withMemory = true
): string {
  const lease = session.lease;
  if (lease === null) {
    return words.state(session);
  }
  const devices = node === undefined ? [] : held(node, lease.device_ids);
  const first = devices[0];
  if (first === undefined) {
    return lease.node_id;
  }
  const more = devices.length > 1 ? ` +${devices.length - 1}` : '';
  const where = `${lease.node_id} · ${deviceName(first.device)}${more}`;
  return withMemory ? `${where} · ${fullness(first, words)}` : where;
}

/** Devices of a node that no session holds. */
export function free(node: INode): IDevice[] {
  return node.devices.filter(device => !node.leased.includes(device.id));
}

/** Whether a node has what a session asks for. */
export function hasRoom(node: INode, session: ISession): boolean {
  const { kind, memory_bytes, devices } = session.request;
  const fit = free(node).filter(
    device => (kind === null || device.kind === kind) && device.memory_bytes >= memory_bytes
  );
  return node.state === 'up' && fit.length >= devices;
}
