/** *Nodes*: the pool, how full and how busy each device is, and who takes no new sessions. */

import * as React from 'react';

import type { IDevice, INode } from '../api/types';
import { deviceKey, HISTORY } from '../model/state';
import { deviceName, fullness, held } from '../words/devices';
import type { Words } from '../words/trans';
import { Meter, Sparkline, State } from './parts';
import type { ISectionProps } from './props';
import { Rows } from './rows';

/** Of the name of a node, and of each of its devices with its meter and history. */
const NAME_PX = 32;
const DEVICE_PX = 70;

function heightOf({ devices }: INode): number {
  return NAME_PX + devices.length * DEVICE_PX;
}

export function Nodes({ state, words }: ISectionProps): JSX.Element {
  const nodes = [...state.nodes.values()];
  if (nodes.length === 0) {
    return <p className="jp-gpuaas-hint">{words.trans.__('No node is known.')}</p>;
  }
  return (
    <Rows label={words.trans.__('Nodes')} items={nodes} height={heightOf}>
      {node => <NodeRow node={node} history={state.history} words={words} />}
    </Rows>
  );
}

interface INodeRowProps {
  readonly node: INode;
  readonly history: ISectionProps['state']['history'];
  readonly words: Words;
}

/** Painted again when the node has changed; its history grows with each sample, which is a change of the node. */
const NodeRow = React.memo(
  function NodeRow({ node, history, words }: INodeRowProps): JSX.Element {
    return (
      <div className="jp-gpuaas-row">
        <div className="jp-gpuaas-row-head">
          <span className="jp-gpuaas-row-title">{node.id}</span>
          <State state={node.state} text={words.nodeState(node)} />
        </div>
        {node.devices.map(device => (
          <DeviceLine
            key={device.id}
            node={node}
            device={device}
            values={history.get(deviceKey(node.id, device.id)) ?? []}
            words={words}
          />
        ))}
      </div>
    );
  },
  (before, after) => before.node === after.node && before.words === after.words
);

interface IDeviceLineProps {
  readonly node: INode;
  readonly device: IDevice;
  readonly values: readonly number[];
  readonly words: Words;
}

function DeviceLine({ node, device, values, words }: IDeviceLineProps): JSX.Element {
  const { trans } = words;
  const name = deviceName(device);
  const [now] = held(node, [device.id]);
  const used = now?.sample?.used_bytes ?? 0;
  const taken = node.leased.includes(device.id);
  return (
    <div className="jp-gpuaas-device">
      <div className="jp-gpuaas-device-name">
        {taken ? trans.__('%1 (in use)', name) : trans.__('%1 (free)', name)}
      </div>
      <Meter
        label={trans.__('Memory of %1 on %2', name, node.id)}
        value={device.memory_bytes > 0 ? used / device.memory_bytes : 0}
        text={now === undefined ? '' : fullness(now)}
      />
      <Sparkline values={values} most={HISTORY} />
    </div>
  );
}
