// npm `@slack/bolt`, as an application would use it, over HTTP or over sockets.
// Knows: Bolt's own interface. Does not know: that its Slack is a fake, or anything of Myna.
// Prints one JSON line when it listens, and one for each thing that it was told.

import { App } from '@slack/bolt';

const [mode, slackApiUrl, token, secret, appToken] = process.argv.slice(2);
const clientOptions = { slackApiUrl, retryConfig: { retries: 0 } };
const tell = (what, more = {}) => console.log(JSON.stringify({ what, ...more }));

const app = mode === 'sockets'
  ? new App({ token, appToken, socketMode: true, clientOptions, logLevel: 'error' })
  : new App({
    token, signingSecret: secret, clientOptions, logLevel: 'error',
    endpoints: ['/slack/events', '/slack/commands', '/slack/interactivity'],
  });

const feedback = {
  type: 'context_actions',
  elements: [{
    type: 'feedback_buttons',
    action_id: 'feedback',
    positive_button: { text: { type: 'plain_text', text: 'Good' }, value: 'good' },
    negative_button: { text: { type: 'plain_text', text: 'Bad' }, value: 'bad' },
  }],
};
const modal = {
  type: 'modal',
  callback_id: 'why',
  title: { type: 'plain_text', text: 'What was wrong?' },
  submit: { type: 'plain_text', text: 'Send' },
  blocks: [{
    type: 'input',
    block_id: 'why',
    label: { type: 'plain_text', text: 'Why?' },
    element: { type: 'plain_text_input', action_id: 'text' },
  }],
};

app.event('app_mention', async ({ event, say }) => {
  await say({ text: `heard: ${event.text}`, thread_ts: event.ts });
  tell('mention');
});

app.message(async ({ message, client, context }) => {
  if (message.channel_type !== 'im' || message.subtype) return;
  const streamer = client.chatStream({
    channel: message.channel,
    thread_ts: message.ts,
    recipient_team_id: context.teamId,
    recipient_user_id: message.user,
    buffer_size: 1,
  });
  await streamer.append({ markdown_text: 'In ' });
  await streamer.append({ markdown_text: 'May.' });
  await streamer.stop({ blocks: [feedback] });
  tell('streamed');
});

app.action('feedback', async ({ ack, action, body, client }) => {
  await ack();
  await client.views.open({ trigger_id: body.trigger_id, view: modal });
  tell('feedback', { value: action.value });
});

app.view('why', async ({ ack, view }) => {
  const value = view.state.values.why.text.value;
  await ack(value.length < 3 ? { response_action: 'errors', errors: { why: 'Too short' } } : undefined);
  tell('submitted', { value });
});

app.command('/myna', async ({ ack, command, respond }) => {
  await ack(`at once: ${command.text}`);
  await respond({ text: 'later', response_type: 'in_channel' });
  tell('command');
});

app.error(async (error) => tell('error', { message: String(error) }));

await app.start(mode === 'sockets' ? undefined : { host: '127.0.0.1', port: 0 });
tell('listens', { port: mode === 'sockets' ? 0 : app.receiver.server.address().port });
process.stdin.on('end', () => process.exit(0)).resume();
