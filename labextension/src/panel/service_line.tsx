/** One line at the top: which service this is, or what is the matter with it and what to do. */

import * as React from 'react';

import { isCluster, liveSessions } from '../model/select';
import { when } from '../words/amounts';
import { Act } from './parts';
import type { ISectionProps } from './props';

export function ServiceLine({ state, words, run }: ISectionProps): JSX.Element {
  const { trans } = words;
  const { service, nodes } = state;
  if (state.away_s > 0) {
    return (
      <p className="jp-gpuaas-problem" role="alert">
        {trans.__(
          'The Jupyter server has not answered since %1. Sessions go on; what is shown here is from before.',
          when(state.away_s, Date.now() / 1000)
        )}
      </p>
    );
  }
  if (service === null) {
    return <p className="jp-gpuaas-hint">{trans.__('Looking for the service…')}</p>;
  }
  switch (service.state) {
    case 'starting':
      return (
        <p className="jp-gpuaas-hint" role="status">
          {trans.__('The service is starting…')}
        </p>
      );
    case 'unreachable':
      return (
        <p className="jp-gpuaas-problem" role="alert">
          {words.sentences(
            trans.__('The service does not answer: %1', service.problem),
            ...(service.hint === '' ? [] : [service.hint])
          )}
        </p>
      );
    case 'off':
      return (
        <div className="jp-gpuaas-hint">
          <p>
            {liveSessions(state).length > 0
              ? trans.__(
                  'The service on this machine does not run any more. What is shown here is from before.'
                )
              : trans.__(
                  'Open a notebook with the kernel "Python 3 (remote GPU)": a service for this machine is started then, and the session outlives this page.'
                )}
          </p>
          {service.may_start && (
            <Act label={trans.__('Start it now')} onClick={() => run('gpuaas:start-service')} />
          )}
        </div>
      );
    case 'ready':
      return (
        <p className="jp-gpuaas-hint">
          {service.embedded
            ? isCluster(state)
              ? trans.__('%1 nodes on this machine', nodes.size)
              : trans.__('On this machine')
            : trans._n(
                '%1 node at %2, as %3',
                '%1 nodes at %2, as %3',
                nodes.size,
                service.url,
                service.user
              )}
        </p>
      );
  }
}
