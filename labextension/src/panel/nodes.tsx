/** *Nodes*: the pool, how full and how busy each device is, who takes no new sessions, and who is being emptied. */

import * as React from 'react';

import type { IDevice, INode } from '../api/types';
import { mayManage } from '../model/select';
import { deviceKey, HISTORY } from '../model/state';
import { deviceName, fullness, held, inUse } from '../words/devices';
import type { Words } from '../words/trans';
import { Act, Meter, Sparkline, State } from './parts';
import type { ISectionProps, Run } from './props';
import { Rows } from './rows';

/** Of the name of a node, of each device with its meters and history, of the buttons, and of what is told of a drain. */
const NAME_PX = 32;
const DEVICE_PX = 96;
const ACTS_PX = 30;
const DRAIN_PX = 60;

function heightOf({ devices, drain }: INode): number {
  return NAME_PX + devices.length * DEVICE_PX + (drain === null ? 0 : DRAIN_PX);
}

function managedHeightOf(node: INode): number {
  return heightOf(node) + ACTS_PX;
}

export function Nodes({ state, words, run }: ISectionProps): JSX.Element {
  const nodes = [...state.nodes.values()];
  if (nodes.length === 0) {
    return <p className="jp-gpuaas-hint">{words.trans.__('No node is known.')}</p>;
  }
  const isManaged = mayManage(state);
  return (
    <Rows
      label={words.trans.__('Nodes')}
      items={nodes}
      height={isManaged ? managedHeightOf : heightOf}
    >
      {node => (
        <NodeRow
          node={node}
          history={state.history}
          isManaged={isManaged}
          words={words}
          run={run}
        />
      )}
    </Rows>
  );
}

interface INodeRowProps {
  readonly node: INode;
  readonly history: ISectionProps['state']['history'];
  /** Whether this user may say who takes sessions. */
  readonly isManaged: boolean;
  readonly words: Words;
  readonly run: Run;
}

/** Painted again when the node has changed; its history grows with each sample, which is a change of the node. */
const NodeRow = React.memo(
  function NodeRow({ node, history, isManaged, words, run }: INodeRowProps): JSX.Element {
    const emptying = words.drain(node, Date.now() / 1000);
    const refused = Object.values(node.drain?.refused ?? {});
    return (
      <div className="jp-gpuaas-row">
        <div className="jp-gpuaas-row-head">
          <span className="jp-gpuaas-row-title">{node.id}</span>
          <State state={node.state} text={words.nodeState(node)} />
        </div>
        {emptying !== null && (
          <p className="jp-gpuaas-hint" role="status">
            {emptying}
          </p>
        )}
        {refused.length > 0 && (
          <ul className="jp-gpuaas-reasons">
            {refused.map(reason => (
              <li key={reason}>{reason}</li>
            ))}
          </ul>
        )}
        {node.devices.map(device => (
          <DeviceLine
            key={device.id}
            node={node}
            device={device}
            values={history.get(deviceKey(node.id, device.id)) ?? []}
            words={words}
          />
        ))}
        {isManaged && <NodeActs node={node} words={words} run={run} />}
      </div>
    );
  },
  (before, after) =>
    before.node === after.node &&
    before.words === after.words &&
    before.isManaged === after.isManaged
);

function NodeActs({
  node,
  words,
  run
}: Pick<INodeRowProps, 'node' | 'words' | 'run'>): JSX.Element {
  const { trans } = words;
  const about = { node: node.id };
  const isEmptied = node.drain !== null && !node.drain.done;
  return (
    <div className="jp-gpuaas-acts">
      {node.state === 'cordoned' ? (
        <Act
          label={trans.__('Uncordon')}
          about={words.of(node.id)}
          onClick={() => run('gpuaas:uncordon', about)}
        />
      ) : (
        <Act
          label={trans.__('Cordon')}
          about={words.of(node.id)}
          disabled={node.state !== 'up'}
          onClick={() => run('gpuaas:cordon', about)}
        />
      )}
      {isEmptied ? (
        <Act
          label={trans.__('Stop the drain')}
          about={words.of(node.id)}
          onClick={() => run('gpuaas:stop-drain', about)}
        />
      ) : (
        <Act
          label={trans.__('Drain…')}
          about={words.of(node.id)}
          disabled={node.state === 'lost'}
          onClick={() => run('gpuaas:drain', about)}
        />
      )}
    </div>
  );
}

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
  const sample = now?.sample ?? null;
  const used = sample?.used_bytes ?? 0;
  return (
    <div className="jp-gpuaas-device">
      <div className="jp-gpuaas-device-name">{inUse(device, node, words)}</div>
      <Meter
        label={trans.__('Memory of %1 on %2', name, node.id)}
        value={device.memory_bytes > 0 ? used / device.memory_bytes : 0}
        text={now === undefined ? '' : fullness(now, words)}
      />
      {sample !== null && sample.utilisation >= 0 && (
        <Meter
          label={trans.__('Use of %1 on %2', name, node.id)}
          value={sample.utilisation}
          text={trans.__('%1 % busy', Math.round(sample.utilisation * 100))}
        />
      )}
      <Sparkline values={values} most={HISTORY} />
    </div>
  );
}
