/** What a move would do: what goes along, what is made anew, what is lost, and what it is likely to cost. */

import * as React from 'react';

import type { IPlan } from '../api/types';
import { Facts, ReasonList } from '../panel/parts';
import { amount, duration } from '../words/amounts';
import type { Words } from '../words/trans';

/** Of names that are made anew there, so many are told at once. */
export function Plan({ plan, words }: { plan: IPlan; words: Words }): JSX.Element {
  const { trans } = words;
  const lost = Object.keys(plan.lost).length;
  const rebuilt = Object.keys(plan.rebuilt).length;
  return (
    <div className="jp-gpuaas-plan">
      <Facts
        facts={[
          [
            trans.__('Moves'),
            trans._n(
              '%1 variable, about %2',
              '%1 variables, about %2',
              plan.moves,
              amount(trans, plan.bytes_estimate)
            )
          ],
          [
            trans.__('Takes'),
            trans.__('about %1 (estimate)', duration(trans, plan.total_s_estimate))
          ],
          [
            trans.__('Stands still'),
            trans.__(
              'about %1 (estimate); until then you can work',
              duration(trans, plan.downtime_s_estimate)
            )
          ]
        ]}
      />
      {rebuilt > 0 && (
        <details className="jp-gpuaas-details">
          <summary>
            {trans._n('%1 name is made anew there', '%1 names are made anew there', rebuilt)}
          </summary>
          <ReasonList reasons={plan.rebuilt} />
        </details>
      )}
      {lost > 0 && (
        <div className="jp-gpuaas-problem" role="alert">
          <p>
            {trans._n(
              '%1 name does not survive the move:',
              '%1 names do not survive the move:',
              lost
            )}
          </p>
          <ReasonList reasons={plan.lost} />
        </div>
      )}
      {plan.remarks.length > 0 && (
        <ul className="jp-gpuaas-remarks">
          {plan.remarks.map(remark => (
            <li key={remark}>{remark}</li>
          ))}
        </ul>
      )}
    </div>
  );
}
