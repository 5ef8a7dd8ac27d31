import { words } from '../../__tests__/facts';
import { eventOf, outdated } from '../emissions';
import { Problem, problemOf, wordsOf } from '../problem';

describe('eventOf', () => {
  it('reads a transition', () => {
    const found = eventOf({
      schema_id: 'urn:jupyter-gpuaas:session:v1',
      seq: 4,
      time_s: 10,
      cause: 'placed',
      kind: 'transition',
      session: 's1',
      epoch: 2,
      source: 'queued',
      target: 'starting',
      queue_place: 0
    });

    expect(found).toMatchObject({
      seq: 4,
      kind: 'transition',
      session_id: 's1',
      source: 'queued',
      target: 'starting'
    });
  });

  it('reads nodes of a migration as its detail, not as states', () => {
    const found = eventOf({
      schema_id: 'urn:jupyter-gpuaas:migration:v1',
      seq: 5,
      session: 's1',
      migration: 'm1',
      phase: 'restore',
      source: 'node-a',
      target: 'node-b'
    });

    expect(found).toMatchObject({ kind: 'migration', source: '', target: '' });
    expect(found?.detail).toMatchObject({ phase: 'restore', source: 'node-a' });
  });

  it("passes over others' events", () => {
    expect(
      eventOf({ schema_id: 'https://events.jupyter.org/jupyter_server/contents_service/v1' })
    ).toBeNull();
  });
});

describe('outdated', () => {
  it('asks for the session, and for nodes where devices may have changed hands', () => {
    const event = eventOf({ schema_id: 'urn:jupyter-gpuaas:allocation:v1', seq: 1, session: 's1' });

    expect(event && outdated(event)).toEqual({ session: 's1', nodes: true });
  });
});

describe('problems', () => {
  it('say what the service said, with what to do', () => {
    const found = problemOf(
      409,
      { error: 'AllocationError', message: 'no room.', hint: 'Wait.' },
      words.trans
    );

    expect(found).toBeInstanceOf(Problem);
    expect(found.kind).toBe('AllocationError');
    expect(wordsOf(found)).toBe('no room. Wait.');
  });

  it('have words for an answer of nobody that we know', () => {
    expect(wordsOf(problemOf(502, null, words.trans))).toBe('The server answered with status 502.');
  });
});
