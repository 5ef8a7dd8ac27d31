/** Devices in words: where a session runs, and how full it is there. */

import type { IDevice, IDeviceSample, ILease, INode, ISession } from '../api/types';
import type { Words } from './trans';
import { part, share } from './amounts';

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

/** A device as a session has it: `H200 0`, or `0.5 of H200 0`. */
export function heldName(device: IDevice, lease: ILease, { trans }: Words): string {
  const name = deviceName(device);
  return lease.share < 1 ? trans.__('%1 of %2', part(lease.share), name) : name;
}

/** A device, and how much of it sessions hold. */
export function inUse(device: IDevice, node: INode, { trans }: Words): string {
  const name = deviceName(device);
  const used = node.used[device.id] ?? 0;
  if (used === 0) {
    return trans.__('%1 (free)', name);
  }
  return used < 1 ? trans.__('%1 (%2 in use)', name, part(used)) : trans.__('%1 (in use)', name);
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
  const where = `${lease.node_id} · ${heldName(first.device, lease, words)}${more}`;
  return withMemory ? `${where} · ${fullness(first, words)}` : where;
}

/** Slack for sums of parts, as the service has it. */
const ATOM = 1e-6;

/** Devices of a node that have room for such a part of one; where it is 1, those that no session holds. */
export function free(node: INode, wanted: number): IDevice[] {
  return node.devices.filter(device => (node.used[device.id] ?? 0) + wanted <= 1 + ATOM);
}

/** Whether a node has what a session asks for. */
export function hasRoom(node: INode, session: ISession): boolean {
  const { kind, memory_bytes, devices, share: wanted } = session.request;
  const fit = free(node, wanted).filter(
    device => (kind === null || device.kind === kind) && device.memory_bytes >= memory_bytes
  );
  return node.state === 'up' && fit.length >= devices;
}
