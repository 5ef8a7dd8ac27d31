/** Where a session can go: one choice for each other node, with what is free there, or why it is no choice. */

import * as React from 'react';

import type { INode, ISession } from '../api/types';
import { deviceName, free, fullness, hasRoom, held } from '../words/devices';
import type { Words } from '../words/trans';

export interface ITargetsProps {
  readonly session: ISession;
  readonly nodes: readonly INode[];
  readonly chosen: string | null;
  readonly onChoose: (node: string) => void;
  readonly words: Words;
}

export function Targets({ session, nodes, chosen, onChoose, words }: ITargetsProps): JSX.Element {
  const { trans } = words;
  return (
    <fieldset className="jp-gpuaas-targets">
      <legend>{trans.__('Move to')}</legend>
      {nodes.map(node => {
        const isOpen = hasRoom(node, session);
        return (
          <label
            key={node.id}
            className={isOpen ? 'jp-gpuaas-target' : 'jp-gpuaas-target jp-mod-full'}
          >
            <input
              type="radio"
              name="jp-gpuaas-target"
              value={node.id}
              checked={node.id === chosen}
              disabled={!isOpen}
              onChange={() => onChoose(node.id)}
            />
            <span className="jp-gpuaas-target-name">{node.id}</span>
            <span className="jp-gpuaas-target-room">{room(node, session, isOpen, words)}</span>
          </label>
        );
      })}
    </fieldset>
  );
}

/** What there is on a node, or why the session cannot go there. */
function room(node: INode, { request }: ISession, isOpen: boolean, words: Words): string {
  const { trans } = words;
  if (node.state !== 'up') {
    return words.nodeState(node);
  }
  const devices = isOpen ? free(node, request.share) : node.devices;
  const [first] = held(
    node,
    devices.map(device => device.id)
  );
  if (first === undefined) {
    return trans.__('no device');
  }
  const what = `${deviceName(first.device)} · ${fullness(first, words)}`;
  if (!isOpen) {
    return trans.__('%1, in use', what);
  }
  return request.share < 1
    ? trans._n('%2, room on %1 device', '%2, room on %1 devices', devices.length, what)
    : trans._n('%2, %1 device free', '%2, %1 devices free', devices.length, what);
}
