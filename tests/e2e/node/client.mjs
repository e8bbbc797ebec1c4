// The official JavaScript client of OpenAI, driven by tests/e2e/test_clients_node.py: node client.mjs BASE_URL.
// It plays every scene once and prints one line of JSON for each; what is right is for the test to say.
import OpenAI from 'openai';

const ai = new OpenAI({ baseURL: process.argv[2], apiKey: 'unused', maxRetries: 0, timeout: 20_000 });
const options = JSON.parse(process.argv[3]);
const ask = { model: 'tiny', messages: [{ role: 'user', content: 'hello' }], temperature: 0, seed: 1, max_tokens: 30 };

async function textOf(stream, seen = []) {
  for await (const chunk of stream) seen.push(chunk.choices[0]?.delta?.content ?? '');
  return { text: seen.join(''), pieces: seen.length };
}

async function failure(work) {
  try {
    await work();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, message: error.message };
  }
  return { kind: 'none' };
}

const scenes = {
  whole: async () => {
    const answer = await ai.chat.completions.create(ask);
    return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens };
  },
  streamed: async () => textOf(await ai.chat.completions.create({ ...ask, stream: true })),
  models: async () => {
    const names = [];
    for await (const card of ai.models.list()) names.push(card.id);
    return names;
  },
  embeddings: async () => {
    const answer = await ai.embeddings.create({ model: 'tiny', input: ['one', 'two'] });
    return answer.data.map(row => row.embedding.length);
  },
  tool: async () => {
    const answer = await ai.chat.completions.create({ ...ask, ...options.tools });
    return answer.choices[0].message.tool_calls.map(call => call.function);
  },
  streamed_tool: async () => {
    const answer = await ai.chat.completions.stream({ ...ask, ...options.tools }).finalChatCompletion();
    return answer.choices[0].message.tool_calls.map(call => call.function);
  },
  left: async () => {
    const stream = await ai.chat.completions.create({ ...ask, max_tokens: 3000, ignore_eos: true, stream: true });
    let pieces = 0;
    for await (const _ of stream) if (++pieces === 5) break;
    return { pieces };
  },
  cut: async () => {
    const seen = [];
    const failed = await failure(async () =>
      textOf(await ai.chat.completions.create({ ...ask, model: 'faulty:close_mid_stream', stream: true }), seen));
    return { ...failed, text: seen.join('') };
  },
  retried: () => failure(() =>
    ai.chat.completions.create({ ...ask, model: 'faulty:close_before_head' }, { maxRetries: 2 })),
};

for (const name of options.scenes) console.log(JSON.stringify({ scene: name, saw: await scenes[name]() }));
for (const model of options.failures) {
  const whole = await failure(() => ai.chat.completions.create({ ...ask, model }));
  const streamed = await failure(() => ai.chat.completions.create({ ...ask, model, stream: true }));
  console.log(JSON.stringify({ scene: model, saw: [whole, streamed] }));
}
