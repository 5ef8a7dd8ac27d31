/** The body of the dialog that asks which devices a notebook's next session should have. */

import type { Dialog } from '@jupyterlab/apputils';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IResourceRequest } from '../api/types';
import { isCluster, queue } from '../model/select';
import type { IState } from '../model/state';
import type { IGpuaas } from '../tokens';
import { part } from '../words/amounts';
import type { Words } from '../words/trans';
import { bytesOf, changed, countOf, freeFor, GB, MOST_DEVICES, partsWith } from './free';

export class ChooseBody extends ReactWidget implements Dialog.IBodyWidget<IResourceRequest> {
  constructor(
    private readonly gpuaas: IGpuaas,
    private request: IResourceRequest
  ) {
    super();
    this.addClass('jp-gpuaas-dialog');
  }

  getValue(): IResourceRequest {
    return this.request;
  }

  protected override render(): JSX.Element {
    const { store, words } = this.gpuaas;
    return (
      <UseSignal signal={store.changed} initialSender={store}>
        {() => (
          <ChooseForm
            state={store.state}
            request={this.request}
            words={words}
            onChange={request => {
              this.request = request;
              this.update();
            }}
          />
        )}
      </UseSignal>
    );
  }
}

export interface IChooseFormProps {
  readonly state: IState;
  readonly request: IResourceRequest;
  readonly words: Words;
  readonly onChange: (request: IResourceRequest) => void;
}

export function ChooseForm({ state, request, words, onChange }: IChooseFormProps): JSX.Element {
  const { trans } = words;
  const change = (by: Partial<IResourceRequest>): void => onChange(changed(request, by));
  // One that was chosen when there was another pool can still be seen, and given up.
  const nodes = new Set(state.nodes.keys());
  if (request.node !== null) {
    nodes.add(request.node);
  }
  return (
    <div className="jp-gpuaas-form">
      <label>
        {trans.__('Device')}
        <select
          value={request.kind ?? ''}
          onChange={event => change({ kind: event.target.value || null })}
        >
          <option value="">{trans.__('any')}</option>
          <option value="cuda">{trans.__('GPU')}</option>
          <option value="cpu">{trans.__('CPU')}</option>
        </select>
      </label>
      <label>
        {trans.__('How many')}
        <input
          type="number"
          min={1}
          max={MOST_DEVICES}
          value={request.devices}
          onChange={event => change({ devices: countOf(event.target.value) })}
        />
      </label>
      <label>
        {trans.__('How much of it (others may have the rest)')}
        <select
          value={request.share}
          disabled={request.devices > 1}
          onChange={event => change({ share: Number(event.target.value) })}
        >
          {partsWith(request.share).map(each => (
            <option key={each} value={each}>
              {each < 1 ? trans.__('%1 of it', part(each)) : trans.__('all of it')}
            </option>
          ))}
        </select>
      </label>
      <label>
        {trans.__('Memory of each, GB (0: any)')}
        <input
          type="number"
          min={0}
          value={request.memory_bytes / GB}
          onChange={event => change({ memory_bytes: bytesOf(event.target.value) })}
        />
      </label>
      {nodes.size > 1 && (
        <label>
          {trans.__('Node')}
          <select
            value={request.node ?? ''}
            onChange={event => change({ node: event.target.value || null })}
          >
            <option value="">{trans.__('any')}</option>
            {[...nodes].map(node => (
              <option key={node} value={node}>
                {node}
              </option>
            ))}
          </select>
        </label>
      )}
      {isCluster(state) && (
        <label>
          {trans.__('A standby on a second node, for when the first is lost')}
          <input
            type="checkbox"
            checked={request.standby > 0}
            disabled={request.node !== null}
            onChange={event => change({ standby: event.target.checked ? 1 : 0 })}
          />
        </label>
      )}
      <p role="status" className="jp-gpuaas-hint">
        {outlook(state, request, words)}
      </p>
    </div>
  );
}

/** Whether the wish can be met now, and if not, whether it ever can. */
function outlook(state: IState, request: IResourceRequest, { trans }: Words): string {
  const nodes = [...state.nodes.values()];
  const { now, ever } = freeFor(nodes, request);
  if (ever === 0) {
    return trans.__('No node has such devices: a session would be refused.');
  }
  if (now > 0) {
    return trans._n('Free now on %1 node.', 'Free now on %1 nodes.', now);
  }
  const waiting = queue(state).length;
  return waiting === 0
    ? trans.__('None is free now: the session would be next in the queue.')
    : trans._n(
        'None is free now, and %1 session waits already.',
        'None is free now, and %1 sessions wait already.',
        waiting
      );
}
