-- A database as version 0.1.0 (migration 0001) wrote it: the output of sqlite3's .dump.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE api_keys (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	prefix VARCHAR(16) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	scopes VARCHAR(200) NOT NULL, 
	rpm INTEGER, 
	created_at INTEGER NOT NULL, 
	expires_at INTEGER, 
	revoked_at INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (hash)
);
INSERT INTO "api_keys" VALUES('key_f6fb09f7ca98aaba96a07a330a2c9d3a','laptop','sk-release','674518810d455484f8dbcdb81bb3ff7efc2fa43364c1a4ed8f7658300772887b','chat',60,1795384180,NULL,NULL);
INSERT INTO "api_keys" VALUES('key_e6c7dc5f512f4f6e8b8e5a0c993de210','old','sk-release','1fc298c67f16e30990921f1389aef5f188a22b4f41ff345f441ae0f18f006167','chat',NULL,1795384180,NULL,1795384180);
CREATE TABLE conversations (
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(300) NOT NULL, 
	metadata JSON NOT NULL, 
	created_at INTEGER NOT NULL, 
	updated_at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "conversations" VALUES('conv_a36e4bee49cc04bedbabfd48958d8469','key_f6fb09f7ca98aaba96a07a330a2c9d3a','{"title": "Gr\u00fc\u00dfe, \u4f60\u597d", "pinned": "true"}',1795384180,1.79538418091744923594e+09);
INSERT INTO "conversations" VALUES('conv_20713dd6aa6bd27a492fe614bb360612','key_f6fb09f7ca98aaba96a07a330a2c9d3a/ann','{}',1795384180,1.79538418092211866372e+09);
CREATE TABLE items (
	position INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	conversation_id VARCHAR(64), 
	response_id VARCHAR(64), 
	is_output BOOLEAN NOT NULL, 
	role VARCHAR(20) NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	content JSON NOT NULL, 
	tokens INTEGER, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE (id), 
	FOREIGN KEY(conversation_id) REFERENCES conversations (id) ON DELETE CASCADE, 
	FOREIGN KEY(response_id) REFERENCES responses (id) ON DELETE CASCADE
);
INSERT INTO "items" VALUES(1,'msg_b0f1da09b8b3a8f9d600023354502772','conv_a36e4bee49cc04bedbabfd48958d8469',NULL,0,'user','completed','[{"type": "input_text", "text": "imported \u4f60\u597d \"quoted\""}]',3,1795384180);
INSERT INTO "items" VALUES(2,'msg_a23964bacfdb3b0a686be882d95f3269','conv_a36e4bee49cc04bedbabfd48958d8469','resp_9a0e200a51f3dedaee71fb36688acb3d',0,'user','completed','[{"type": "input_text", "text": "What is 1+1?"}]',3,1795384180);
INSERT INTO "items" VALUES(3,'msg_9c638eda469032a1a52b06dc5e7d7cf1','conv_a36e4bee49cc04bedbabfd48958d8469','resp_9a0e200a51f3dedaee71fb36688acb3d',1,'assistant','completed','[{"type": "output_text", "text": "Two, \u4e8c.", "annotations": [], "logprobs": []}]',5,1795384180);
INSERT INTO "items" VALUES(4,'msg_3961eff34f40ec3ce54ac2afdfcd3ea8','conv_a36e4bee49cc04bedbabfd48958d8469','resp_b2cbda712cd235eed0ca3fe42b0f0408',0,'user','completed','[{"type": "input_text", "text": "And 2+2?"}]',3,1795384180);
INSERT INTO "items" VALUES(5,'msg_b76bc3e6cf7967112158affdac75abba','conv_a36e4bee49cc04bedbabfd48958d8469','resp_b2cbda712cd235eed0ca3fe42b0f0408',1,'assistant','in_progress','[{"type": "output_text", "text": "Fo", "annotations": [], "logprobs": []}]',5,1795384180);
INSERT INTO "items" VALUES(6,'msg_7357d022b56e01141e7833ff2d582ee7','conv_20713dd6aa6bd27a492fe614bb360612','resp_39eddf2a297f5c99e7d8a7801adaef2a',0,'user','completed','[{"type": "input_text", "text": "hello"}]',3,1795384180);
INSERT INTO "items" VALUES(7,'msg_853dfabdcb93e0292df80a5c79c00086','conv_20713dd6aa6bd27a492fe614bb360612','resp_39eddf2a297f5c99e7d8a7801adaef2a',1,'assistant','completed','[{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}]',5,1795384180);
INSERT INTO "items" VALUES(8,'msg_61f583724b5beceb7afc9fabd55a4188',NULL,'resp_f566d1fc42fb213639796479fbd7621b',0,'user','completed','[{"type": "input_text", "text": "chain one"}]',3,1795384180);
INSERT INTO "items" VALUES(9,'msg_e7254f0678eade1fe4aab103251bf043',NULL,'resp_f566d1fc42fb213639796479fbd7621b',1,'assistant','completed','[{"type": "output_text", "text": "one", "annotations": [], "logprobs": []}]',5,1795384180);
INSERT INTO "items" VALUES(10,'msg_48998bea5d2412fb9ce181894f48fe27',NULL,'resp_d25f78096f310dd4e3cb09b2303fa5b1',0,'user','completed','[{"type": "input_text", "text": "chain two"}]',3,1795384180);
INSERT INTO "items" VALUES(11,'msg_5126d9ee056a379d447d52d7dede26ca',NULL,'resp_d25f78096f310dd4e3cb09b2303fa5b1',1,'assistant','completed','[{"type": "output_text", "text": "two", "annotations": [], "logprobs": []}]',5,1795384180);
CREATE TABLE responses (
	id VARCHAR(64) NOT NULL, 
	owner VARCHAR(300) NOT NULL, 
	conversation_id VARCHAR(64), 
	previous_id VARCHAR(64), 
	status VARCHAR(20) NOT NULL, 
	body JSON NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(conversation_id) REFERENCES conversations (id) ON DELETE CASCADE
);
INSERT INTO "responses" VALUES('resp_9a0e200a51f3dedaee71fb36688acb3d','key_f6fb09f7ca98aaba96a07a330a2c9d3a','conv_a36e4bee49cc04bedbabfd48958d8469',NULL,'completed','{"id": "resp_9a0e200a51f3dedaee71fb36688acb3d", "object": "response", "created_at": 1700000000, "status": "completed", "background": false, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": "smollm2-135m-instruct", "output": [], "parallel_tool_calls": true, "previous_response_id": null, "conversation": {"id": "conv_a36e4bee49cc04bedbabfd48958d8469"}, "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "metadata": {}, "max_total_tokens": null, "truncated_items": 0}',1700000000);
INSERT INTO "responses" VALUES('resp_b2cbda712cd235eed0ca3fe42b0f0408','key_f6fb09f7ca98aaba96a07a330a2c9d3a','conv_a36e4bee49cc04bedbabfd48958d8469',NULL,'in_progress','{"id": "resp_b2cbda712cd235eed0ca3fe42b0f0408", "object": "response", "created_at": 1700000000, "status": "in_progress", "background": false, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": "smollm2-135m-instruct", "output": [], "parallel_tool_calls": true, "previous_response_id": null, "conversation": {"id": "conv_a36e4bee49cc04bedbabfd48958d8469"}, "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "metadata": {}, "max_total_tokens": null, "truncated_items": 0}',1700000000);
INSERT INTO "responses" VALUES('resp_39eddf2a297f5c99e7d8a7801adaef2a','key_f6fb09f7ca98aaba96a07a330a2c9d3a/ann','conv_20713dd6aa6bd27a492fe614bb360612',NULL,'completed','{"id": "resp_39eddf2a297f5c99e7d8a7801adaef2a", "object": "response", "created_at": 1700000000, "status": "completed", "background": false, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": "smollm2-135m-instruct", "output": [], "parallel_tool_calls": true, "previous_response_id": null, "conversation": {"id": "conv_20713dd6aa6bd27a492fe614bb360612"}, "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "metadata": {}, "max_total_tokens": null, "truncated_items": 0}',1700000000);
INSERT INTO "responses" VALUES('resp_f566d1fc42fb213639796479fbd7621b','key_f6fb09f7ca98aaba96a07a330a2c9d3a',NULL,NULL,'completed','{"id": "resp_f566d1fc42fb213639796479fbd7621b", "object": "response", "created_at": 1700000000, "status": "completed", "background": false, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": "smollm2-135m-instruct", "output": [], "parallel_tool_calls": true, "previous_response_id": null, "conversation": null, "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "metadata": {}, "max_total_tokens": null, "truncated_items": 0}',1700000000);
INSERT INTO "responses" VALUES('resp_d25f78096f310dd4e3cb09b2303fa5b1','key_f6fb09f7ca98aaba96a07a330a2c9d3a',NULL,'resp_f566d1fc42fb213639796479fbd7621b','completed','{"id": "resp_d25f78096f310dd4e3cb09b2303fa5b1", "object": "response", "created_at": 1700000000, "status": "completed", "background": false, "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": "smollm2-135m-instruct", "output": [], "parallel_tool_calls": true, "previous_response_id": "resp_f566d1fc42fb213639796479fbd7621b", "conversation": null, "store": true, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": null, "metadata": {}, "max_total_tokens": null, "truncated_items": 0}',1700000000);
CREATE INDEX conversations_by_activity ON conversations (owner, updated_at, id);
CREATE INDEX responses_of_conversation ON responses (conversation_id, status);
CREATE INDEX responses_open ON responses (status) WHERE status = 'in_progress';
CREATE INDEX items_of_conversation ON items (conversation_id, position);
CREATE INDEX items_of_response ON items (response_id, position);
COMMIT;
