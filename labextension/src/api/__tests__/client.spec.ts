import { english } from '../../__tests__/facts';
import { Client } from '../client';

const makeRequest = jest.fn();

jest.mock('@jupyterlab/services', () => ({
  ServerConnection: { makeRequest: (...given: unknown[]) => makeRequest(...given) }
}));
jest.mock('@jupyterlab/coreutils', () => ({
  URLExt: { join: (...parts: string[]) => parts.join('/').replace(/([^:])\/+/g, '$1/') }
}));

const answer = (body: string, status = 200): object => ({
  ok: status < 400,
  status,
  text: async () => body
});

let client: Client;
let reached: boolean[];

beforeEach(() => {
  makeRequest.mockReset();
  client = new Client({ baseUrl: 'http://here/base/' } as never, english);
  reached = [];
  client.reached.connect((_, isReached) => reached.push(isReached));
});

describe('Client', () => {
  it('asks with paths and queries that are quoted', async () => {
    makeRequest.mockResolvedValue(answer('{}'));
    await client.missed('a/b', 'm 1');

    expect(makeRequest.mock.calls[0]?.[0]).toBe(
      'http://here/base/jupyter-gpuaas/sessions/a%2Fb/missed?after=m+1'
    );
    expect(reached).toEqual([true]);
  });

  it('asks for long lists page by page', async () => {
    const page = (from: number, count: number): string =>
      JSON.stringify(Array.from({ length: count }, (_, index) => ({ id: `s${from + index}` })));
    makeRequest
      .mockResolvedValueOnce(answer(page(0, 500)))
      .mockResolvedValueOnce(answer(page(500, 3)));

    expect(await client.sessions()).toHaveLength(503);
    expect(makeRequest.mock.calls[1]?.[0]).toMatch(/limit=500&after=s499$/);
  });

  it('tells the words of the service where it refuses', async () => {
    makeRequest.mockResolvedValue(
      answer('{"error": "NoCapacity", "message": "none is free.", "hint": "Wait."}', 409)
    );

    await expect(client.nodes()).rejects.toMatchObject({
      kind: 'NoCapacity',
      status: 409,
      text: 'none is free. Wait.'
    });
  });

  it('says that the Jupyter server does not answer, also where an answer breaks off', async () => {
    makeRequest.mockRejectedValueOnce(new TypeError('Failed to fetch'));
    await expect(client.nodes()).rejects.toMatchObject({ status: 0, kind: 'NetworkError' });

    const broken = { ok: true, status: 200, text: () => Promise.reject(new TypeError('network')) };
    makeRequest.mockResolvedValueOnce(broken);
    await expect(client.nodes()).rejects.toMatchObject({ status: 0, kind: 'NetworkError' });
    expect(reached).toEqual([false, false]);
  });

  it('does not take the page of a login for an answer', async () => {
    makeRequest.mockResolvedValue(answer('<!doctype html><title>Log in</title>'));

    await expect(client.sessions()).rejects.toMatchObject({ kind: 'ProtocolError' });
  });
});
